"""Authlib: its introspection endpoint (RFC 7662) in Django, tokens and client in memory."""

import os
import time
from typing import Any

import django
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from django.conf import settings

TOKEN = os.environ["RIVAL_TOKEN"]

settings.configure(
    ALLOWED_HOSTS=["*"],
    SECRET_KEY=os.environ["RIVAL_SECRET"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=[],
    INSTALLED_APPS=[],
    AUTHLIB_OAUTH2_PROVIDER={},
)
django.setup()

from authlib.integrations.django_oauth2 import AuthorizationServer  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.urls import path  # noqa: E402
from django.views.decorators.csrf import csrf_exempt  # noqa: E402


class Client:
    """The one client, which proves itself in the form."""

    client_id = "orders"

    def check_client_secret(self, secret: str) -> bool:
        """Tell whether the secret is right."""
        return secret == "orders-secret"

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        """Let it use the one method."""
        return method == "client_secret_post"


class Token:
    """The one token."""

    expires_at = time.time() + 3600

    def is_expired(self) -> bool:
        """Tell whether it has expired."""
        return self.expires_at < time.time()

    def is_revoked(self) -> bool:
        """Tell whether it was revoked."""
        return False


CLIENTS, TOKENS = {Client.client_id: Client()}, {TOKEN: Token()}


class Introspection(IntrospectionEndpoint):
    """The endpoint, with the token looked up in memory."""

    CLIENT_AUTH_METHODS = ("client_secret_post",)

    def query_token(self, token_string: str, token_type_hint: str | None) -> Token | None:
        """Return the token."""
        return TOKENS.get(token_string)

    def check_permission(self, token: Token, client: Client, request: Any) -> bool:
        """Let every client ask."""
        return True

    def introspect_token(self, token: Token) -> dict[str, Any]:
        """Return the claims."""
        return {"active": True, "sub": "user", "client_id": "web", "exp": int(token.expires_at)}


class Server(AuthorizationServer):
    """The server, with the client looked up in memory."""

    def query_client(self, client_id: str) -> Client | None:
        """Return the client."""
        return CLIENTS.get(client_id)


server = Server(Client, Token)
server.register_endpoint(Introspection)


@csrf_exempt
def introspect(request: Any) -> Any:
    """Answer."""
    return server.create_endpoint_response("introspection", request)


urlpatterns = [path("introspect", introspect)]
app = get_asgi_application()
