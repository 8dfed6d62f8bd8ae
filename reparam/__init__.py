"""FUSE: structural re-parameterisation as algebra, module to module and graph to graph, with a certificate."""
