"""The files that melgpu-export writes of one network: size, speed and agreement."""
