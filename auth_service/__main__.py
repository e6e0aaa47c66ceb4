"""python -m auth_service: the same as the command auth-service."""

from auth_service.cli import main

if __name__ == "__main__":
    main()
