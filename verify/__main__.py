"""``python -m verify``: the command line."""

if __name__ == "__main__":  # a worker process imports this file too, and has no use for a command line
    from verify.cli import main

    main()
