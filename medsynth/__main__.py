"""`python -m medsynth`, which torchrun starts."""

from .cli import main

main()
