"""Port of the web page: a check that it is free, before anything is loaded."""

import errno
import socket


def check_port(host: str, port: int) -> None:
    """Refuse a port that this machine cannot listen on.

    Args:
      host: the address to listen on.
      port: the port.

    Raises:
      OSError: if it is taken, or cannot be used for another reason.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(
                f"port {port} is taken. Give another one with --port, or leave it out for the first free one."
            ) from error
        raise OSError(
            f"port {port} of {host} cannot be listened on ({error.strerror}). Give another --port or --host."
        ) from error
