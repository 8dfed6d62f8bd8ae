"""What is linear in what: values that are one convolution of an ancestor, and what each operator does to them."""
