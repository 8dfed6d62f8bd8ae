"""Single-node graphs through the real converters and compilers: what ``attn-export lint --target`` knows of them."""
