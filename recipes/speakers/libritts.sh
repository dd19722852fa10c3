#!/bin/sh
# One LibriTTS speaker from clean data, from data of which 30 % are others, and from these with the robust loss:
#   recipes/speakers/libritts.sh FOLDER SUBSET SPEAKER    such as LibriTTS test-clean 1089; 15 minutes on 2 cores, about 2 on a GPU (not measured)
set -e
gradtts-robust corpus libritts --root "$1" --subset "$2" --out runs/libritts/manifest.csv
for recipe in clean mixed mixed-robust; do
    gradtts-robust adapt --config recipes/adapt/$recipe.yaml --manifest runs/libritts/manifest.csv --speaker "$3" --out "runs/libritts/$3/$recipe"
done
