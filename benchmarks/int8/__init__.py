"""What int8 keeps of trained networks, and how fast it is: by rounding as everybody does, and by ours."""
