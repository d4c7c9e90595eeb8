"""CUDA kernels of the towers and the head, and how they are compiled. Knows nothing of stores."""
