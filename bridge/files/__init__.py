"""Files on disk: .pt and .safetensors, plain data, manifests, and nothing half-written."""
