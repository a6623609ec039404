import os

# Before Triton is imported: its kernels are tested on the CPU, by its interpreter.
os.environ.setdefault("TRITON_INTERPRET", "1")

import torch

# One thread: the tensors of the tests are small, and two threads wait for each other more than they help.
torch.set_num_threads(1)
torch.set_grad_enabled(False)
