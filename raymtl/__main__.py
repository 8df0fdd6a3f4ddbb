"""What `raymtl` and `python -m raymtl` run."""

from raymtl import signals


def main(arguments: list[str] | None = None) -> None:
    """Handle signals from the first moment on, before anything that takes time is imported; then run the command."""
    signals.install()
    from raymtl.cli.main import main as run

    run(arguments)


if __name__ == "__main__":
    main()
