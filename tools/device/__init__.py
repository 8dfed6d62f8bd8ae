"""What is proven on a device, on data of its own, and what a GPU machine hands back."""
