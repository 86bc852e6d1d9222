"""Pages of an admin port, the operator's or a sidecar's, as a probe or Prometheus asks for them."""

from __future__ import annotations

import http.client


def admin_page(host: str, port: int, path: str) -> tuple[int, str]:
    """GET a page: status and text. Raises OSError."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except http.client.HTTPException as error:
        raise ConnectionError(repr(error)) from error
    finally:
        connection.close()
