"""Train the small networks of ``tests/data/trained``, and make the pictures that they are trained on."""
