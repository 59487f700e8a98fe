"""Predictions against measurements: tables of kernels, and what is fitted to them."""
