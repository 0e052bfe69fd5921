#!/bin/sh
# Ray on one machine: a cluster that several runs use one after the other. Usage: ray-one-machine.sh IMAGES OUT
set -eu
ray start --head --disable-usage-stats
trap 'ray stop' EXIT
corrclip segment "$1" --classes "cat, grass, sky; cloud" --model vit-b \
  --engine ray --address auto --out "$2"
