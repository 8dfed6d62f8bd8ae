"""Eight bits: which tensors are rounded to codes, to which, and what stays in float32 so that the result holds."""
