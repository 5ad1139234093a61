"""The networks: they know tensors, and nothing of cohorts or folders of images."""
