#!/bin/sh
# One LibriSpeech speaker from clean data, from data of which 30 % are others, and from these with the robust loss:
#   recipes/speakers/librispeech.sh FOLDER SUBSET SPEAKER    such as LibriSpeech test-other 367; 15 minutes on 2 cores, about 2 on a GPU (not measured)
set -e
gradtts-robust corpus librispeech --root "$1" --subset "$2" --out runs/librispeech/manifest.csv
for recipe in clean mixed mixed-robust; do
    gradtts-robust adapt --config recipes/adapt/$recipe.yaml --manifest runs/librispeech/manifest.csv --speaker "$3" --out "runs/librispeech/$3/$recipe"
done
