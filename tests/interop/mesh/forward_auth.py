"""nginx asks the service about every request: deploy/nginx/nginx.conf."""

import gateways
from calls import bearer, request
from cases import Users
from check import Tally
from processes import NGINX, NGINX_TLS

AT = "nginx"


def check(tally: Tally, users: Users, expired: str) -> None:
    """Run all checks that need the service alive."""
    gateways.check_refusals(tally, AT, NGINX, users, expired)
    gateways.check_identity(tally, AT, NGINX, users)
    answer = request(NGINX, "/_auth")
    tally.check(answer.status == 404, f"{AT}: the question itself cannot be asked from outside", answer)
    answer = request(NGINX, "/assets/failing")
    tally.check(answer.status == 500, f"{AT}: an application's own 500 stays one", answer)
    _check_tls(tally, users)


def _check_tls(tally: Tally, users: Users) -> None:
    answer = request(NGINX_TLS, "/.well-known/jwks.json", tls=True)
    kept = answer.status == 200 and all("d" not in key and "k" not in key for key in answer.json["keys"])
    tally.check(kept, f"{AT}: TLS: the key set is served, and has public parts only", answer)
    answer = request(NGINX_TLS, "/.well-known/oauth-authorization-server", tls=True)
    kept = answer.status == 200 and bool(answer.json.get("issuer"))
    tally.check(kept, f"{AT}: TLS: the metadata of RFC 8414 is served", answer)
    for path in ("/metrics", "/auth", "/readyz", "/healthz"):
        answer = request(NGINX_TLS, path, tls=True)
        kept = b'"method"' in answer.body  # the application's answer, not the service's
        tally.check(kept, f"{AT}: TLS: the service's {path} is not served outside", answer)
    token = users.tokens(audience="internal").access_token
    cookies = ("cookie", "a=1; __Host-refresh=secret; b=2")
    answer = request(NGINX_TLS, "/api/1", bearer(token), cookies, tls=True)
    kept = answer.status == 200 and answer.received("cookie") == ["a=1; b=2"]
    tally.check(kept, f"{AT}: TLS: the refresh cookie never reaches an application", answer)
    answer = request(NGINX_TLS, "/other", ("cookie", "__Host-refresh=secret"), tls=True)
    kept = answer.status == 200 and not answer.received("cookie")
    tally.check(kept, f"{AT}: TLS: nor does it where it comes alone", answer)


def check_down(tally: Tally, token: str) -> None:
    """While the service is gone."""
    gateways.check_down(tally, AT, NGINX, token)
