#!/bin/sh
# Builds the TensorRT plan (TensorRT 10 or newer, on the kind of GPU and the version that will serve it).
set -eu
cd "$(dirname "$0")"
"${TRTEXEC:-trtexec}" \
    --onnx=model.onnx \
    --saveEngine=encoder/1/model.plan \
    --skipInference \
    --memPoolSize=workspace:2048 \
    --stronglyTyped \
    --noTF32 \
    --profile=0 \
    --minShapes=input_ids:1x1,attention_mask:1x1 \
    --optShapes=input_ids:32x16,attention_mask:32x16 \
    --maxShapes=input_ids:256x16,attention_mask:256x16 \
    --profile=1 \
    --minShapes=input_ids:1x17,attention_mask:1x17 \
    --optShapes=input_ids:32x32,attention_mask:32x32 \
    --maxShapes=input_ids:256x32,attention_mask:256x32 \
    --profile=2 \
    --minShapes=input_ids:1x33,attention_mask:1x33 \
    --optShapes=input_ids:32x64,attention_mask:32x64 \
    --maxShapes=input_ids:256x64,attention_mask:256x64 \
    --profile=3 \
    --minShapes=input_ids:1x65,attention_mask:1x65 \
    --optShapes=input_ids:32x128,attention_mask:32x128 \
    --maxShapes=input_ids:256x128,attention_mask:256x128 \
    --profile=4 \
    --minShapes=input_ids:1x129,attention_mask:1x129 \
    --optShapes=input_ids:32x256,attention_mask:32x256 \
    --maxShapes=input_ids:256x256,attention_mask:256x256
