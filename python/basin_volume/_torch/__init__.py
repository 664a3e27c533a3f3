"""Volumes of torch modules: the module does forward and backward passes, the engine everything else."""
