"""What melgpu is compared with: the original solution, other front ends, scipy."""
