"""A trained model handed over for use elsewhere: as ONNX, pruned, distilled or quantised, with weights and model card.

May import torch and the package's own modules; onnx, onnxruntime and safetensors only inside functions: a rank imports
this package before it is forked. Adding a workload to it is giving its task `exported`; see `exported.py`.
"""
