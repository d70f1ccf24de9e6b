"""A check for schemathesis, whose own takes the masters' statuses from 900 on for errors of the server."""

import schemathesis


@schemathesis.check
def no_server_error(ctx, response, case):
    """Nothing that is asked breaks the server."""
    assert not 500 <= response.status_code < 600, f"{response.status_code}: {response.text[:300]}"
