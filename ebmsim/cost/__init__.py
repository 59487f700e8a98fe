"""From kernels to seconds: compute, traffic, dispatch, energy, memory. Every formula works on arrays that broadcast."""
