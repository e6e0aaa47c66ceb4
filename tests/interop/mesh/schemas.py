"""Validates the files of deploy/ that `make interop` does not run, against their makers' schemas.

Run with the Python of .interop/mesh: `schemas.py ISTIO_API TRAEFIK`, where the two name the sources
of the Go modules istio.io/api and github.com/traefik/traefik/v3. Kubernetes' schemas are those of
the package kubernetes-validate. A field that a schema does not know is an error.
"""

# ruff: noqa: T201 - printing is what this program is for
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
KUBERNETES = "1.36"
Json = dict[str, Any]


def documents(path: Path) -> Iterator[Any]:
    """Yield the documents of a YAML file."""
    yield from yaml.safe_load_all(path.read_text())


def closed(schema: Any) -> Any:
    """Return the schema with every object closed to fields that it does not name."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    whole = {key: closed(value) for key, value in schema.items()}
    named = isinstance(whole.get("properties"), dict) and whole.get("type") == "object"
    if named and "additionalProperties" not in whole:
        whole["additionalProperties"] = False
    return whole


def definitions(path: Path) -> dict[tuple[str, str], Json]:
    """Return the schemas of a file of CustomResourceDefinitions, by apiVersion and kind."""
    found = {}
    for definition in filter(None, documents(path)):
        spec = definition["spec"]
        for version in spec["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
            whole = schema["properties"] | {"apiVersion": {}, "kind": {}, "metadata": {}}
            found[key] = closed(schema | {"properties": whole})
    return found


def check_resources(path: Path, schemas: dict[tuple[str, str], Json]) -> None:
    """Validate every document of a file."""
    for resource in documents(path):
        jsonschema.validate(resource, schemas[resource["apiVersion"], resource["kind"]])
        print(f"ok - istio: {resource['kind']} {resource['metadata']['name']} fits its schema")


def check_mesh_config(path: Path, proto: Path) -> None:
    """Compare the fields of the extension providers with the message that Istio reads."""
    text = proto.read_text()
    body = text.partition("message EnvoyExternalAuthorizationGrpcProvider {")[2]
    known = set(re.findall(r"^\s+[\w.]+ (\w+) = \d+", body.partition("\n    }")[0], re.MULTILINE))
    camel = {re.sub(r"_(\w)", lambda match: match[1].upper(), name) for name in known}
    (config,) = documents(path)
    for provider in config["meshConfig"]["extensionProviders"]:
        (kind,) = set(provider) - {"name"}
        given = set(provider[kind])
        if kind != "envoyExtAuthzGrpc" or not given or given - camel:
            raise ValueError(f"{path}: {kind}: unknown {sorted(given - camel)} of {sorted(camel)}")
        print(f"ok - istio: the provider {provider['name']} has fields that Istio knows")


def check_traefik(path: Path, schemas: dict[tuple[str, str], Json]) -> None:
    """Validate the middlewares as those of Traefik's own resource, and that routers name them."""
    (config,) = documents(path)
    http = config["http"]
    schema = schemas["traefik.io/v1alpha1", "Middleware"]["properties"]["spec"]
    for name, middleware in http["middlewares"].items():
        jsonschema.validate(middleware, schema)
        print(f"ok - traefik: the middleware {name} fits its schema")
    for name, router in http["routers"].items():
        if set(router["middlewares"]) - set(http["middlewares"]) or router["middlewares"][0] != "no-identity":
            raise ValueError(f"{path}: {name}: {router['middlewares']}")
    print("ok - traefik: every router names middlewares that are there, no-identity first")


def check_kubernetes(path: Path) -> None:
    """Validate every document of a file strictly."""
    for resource in documents(path):
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)
        name = f"{resource['kind']} {resource['metadata']['name']}"
        print(f"ok - kubernetes: {name} fits the schema of Kubernetes {KUBERNETES}")


def main() -> int:
    """Validate all of them; the first that does not fit ends it."""
    istio, traefik = map(Path, sys.argv[1:])
    resources = definitions(istio / "kubernetes" / "customresourcedefinitions.gen.yaml")
    check_resources(DEPLOY / "istio" / "authentication.yaml", resources)
    check_mesh_config(DEPLOY / "istio" / "mesh-config.yaml", istio / "mesh/v1alpha1/config.proto")
    crds = "docs/content/reference/dynamic-configuration/kubernetes-crd-definition-v1.yml"
    check_traefik(DEPLOY / "traefik" / "dynamic.yaml", definitions(traefik / crds))
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        check_kubernetes(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
