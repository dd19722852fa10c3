#!/bin/sh
# LJSpeech's one speaker from 20 clean utterances, from 20 of which 30 % have wrong transcripts, and from these with the robust loss:
#   recipes/speakers/ljspeech.sh FOLDER    such as LJSpeech-1.1; 15 minutes on 2 cores, about 2 on a GPU (not measured)
set -e
gradtts-robust corpus ljspeech --root "$1" --limit 23 --out runs/ljspeech/manifest.csv
for recipe in clean mixed mixed-robust; do
    dirt=$([ $recipe = clean ] || echo "--corruption.kind text")
    gradtts-robust adapt --config recipes/adapt/$recipe.yaml $dirt --manifest runs/ljspeech/manifest.csv --speaker LJ --out "runs/ljspeech/$recipe"
done
