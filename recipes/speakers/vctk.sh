#!/bin/sh
# One VCTK speaker from 20 clean utterances, from 20 of which 30 % are others', and from these with the robust loss:
#   recipes/speakers/vctk.sh FOLDER SPEAKER    such as VCTK-Corpus-0.92 p225; 15 minutes on 2 cores, about 2 on a GPU (not measured)
set -e
gradtts-robust corpus vctk --root "$1" --subset mic1 --limit 23 --out runs/vctk/manifest.csv
for recipe in clean mixed mixed-robust; do
    gradtts-robust adapt --config recipes/adapt/$recipe.yaml --manifest runs/vctk/manifest.csv --speaker "$2" --out "runs/vctk/$2/$recipe"
done
