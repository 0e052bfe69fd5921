"""The command line as `python -m corrclip_jax`."""

from corrclip_jax.cli import main

if __name__ == "__main__":
    main()
