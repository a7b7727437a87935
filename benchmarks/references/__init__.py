"""What melgpu is compared with: baselines, NVIDIA DALI's front end, and a float64 reference."""
