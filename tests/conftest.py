"""One thread for every test: results must not depend on how many cores are free."""

import torch

torch.set_num_threads(1)
