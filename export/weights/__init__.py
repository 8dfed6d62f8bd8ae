"""Weights: files read without running them, published implementations recognised, fresh modules made random."""
