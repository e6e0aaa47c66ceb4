"""Password hashes that other systems made, each with its password."""

import json

SENTENCE = "correct horse battery stäple"


def keycloak(
    algorithm: str, iterations: int, salt: str, value: str, **parameters: list[str]
) -> str:
    """Return a credential as Keycloak exports it: JSON in JSON."""
    how = {"hashIterations": iterations, "algorithm": algorithm}
    return json.dumps(
        {
            "type": "password",
            "secretData": json.dumps({"value": value, "salt": salt, "additionalParameters": {}}),
            "credentialData": json.dumps(how | {"additionalParameters": parameters}),
        }
    )


ARGON2 = {
    "hashLength": ["32"],
    "memory": ["7168"],
    "type": ["id"],
    "version": ["1.3"],
    "parallelism": ["1"],
}
KEYCLOAK_SHA256 = keycloak(
    "pbkdf2-sha256",
    27500,
    "x/bm4Y3DcuV9eU97ervkPA==",
    "1u7BLvfSPxQFpwc5jpGSA+88EGl9pZYKhaZ8YPIu9N4=",
)
KEYCLOAK_ARGON2 = keycloak(
    "argon2",
    5,
    "Cf9AYCE5pAbb4CKEF0GUTA==",
    "BruFLfFkjH/8erZ26NnrbkOrWiZuQyDRCHD9o0R6Scg=",
    **ARGON2,
)
DJANGO_PBKDF2 = (
    "pbkdf2_sha256$1000$tXSlENekPn67tjlEVDJyRJ$az33oHqLp/FoU6y9xl9fz66E4Rb91iTu0YY9SjjZPX8="
)
BCRYPT = "$2b$04$MGHOgX9WDfcGRbnir5PSO.S4f2GlQSU22K1rJMO1EIp3J/sIAqUhi"

HASHES = {
    # Made by Django 5.2 with its hashers at a low cost.
    "django-pbkdf2": (DJANGO_PBKDF2, SENTENCE),
    "django-argon2": (
        (
            "argon2$argon2id$v=19$m=64,t=2,p=2$VlJDNTV1R1p5U2Rwa3FDVzl2TnFXSg"
            "$igPWgZQ+jrHXRWbGp+dC697Fq5DlA1GKj41sOurPWaY"
        ),
        SENTENCE,
    ),
    "django-bcrypt-sha256": (
        "bcrypt_sha256$$2b$04$6cFU.8ooCjzdsbJX8Db9zO8Dkt9dgd277l6K2/SiAa6HEkIKAqwV6",
        SENTENCE,
    ),
    "django-bcrypt": ("bcrypt$" + BCRYPT, SENTENCE),
    "django-scrypt": (
        (
            "scrypt$16$WmcT2m2rXqSIVdYR9cvtql$8$5$ZxzfsQkgVE54hsna9ecsFZvvoE6WBivydKKirwfskZ+AqZ9CjooH"
            "GORv2o1Ju1a5ZhlPkgKiNtp9J4vrImCZzw=="
        ),
        SENTENCE,
    ),
    # Made by passlib.
    "passlib-sha256": (
        "$pbkdf2-sha256$1000$rhVijPF.712LEULofc.5lw$mZRzaxsh0KH7eY6P3OZ4r39a8lB8HiHCenhKeK6xXH4",
        SENTENCE,
    ),
    "passlib-sha512": (
        (
            "$pbkdf2-sha512$1000$tFZqjRHCuFeq1fpf6703Jg$fYdo0m8brH6aUJDm7mv3b2O9M29ZNcdzYoydxeZWDz2/QYB"
            "kRlYpu3T.FXb9n5Z1UkUJbczB/awfs9jUXGVF7w"
        ),
        SENTENCE,
    ),
    "passlib-scrypt": (
        "$scrypt$ln=4,r=8,p=1$M2aMEeJcq9Vaq1XKOUcIQQ$J7IU+gEpOEHK8zM3lqAaFFehByWsQBt7V9y0BH0kjQw",
        SENTENCE,
    ),
    # Made by libxcrypt, as PHP writes it; and a vector of crypt_blowfish.
    "bcrypt-2y": ("$2y$04$abcdefghijklmnopqrstuuUmjNXq1XyawyZ/BlKYVX3Rw7vQMuTEm", SENTENCE),
    "bcrypt-2a": ("$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U"),
    "bcrypt-2b": (BCRYPT, SENTENCE),
    # RFC 7914 sections 11 and 12: "passwd" with the salt "salt", and "password" with "NaCl".
    "rfc7914-pbkdf2": (
        (
            "$pbkdf2-sha256$i=1$c2FsdA$VawEblbjCJ/sFpHCJUS2BflBhSFt3gRl5oudV8INrLxJypzM8Xm2RZkWZLOdd+8x"
            "fHG4RbHjC9UJESBB06GXgw"
        ),
        "passwd",
    ),
    "rfc7914-scrypt": (
        (
            "$scrypt$ln=10,r=8,p=16$TmFDbA$/bq+HJ00cgB4VucZDQHp/nxq18vII3gw53N2Y0s3MWIurzDZLiKjiG/xCSedmDDa"
            "xyevuUqD7m2DYMvfoswGQA"
        ),
        "password",
    ),
    # A test vector of the reference implementation of argon2.
    "argon2-reference": (
        "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
        "password",
    ),
    # Published by users of Keycloak.
    "keycloak-sha256": (KEYCLOAK_SHA256, "admin"),
    "keycloak-sha512": (
        keycloak(
            "pbkdf2-sha512",
            210000,
            "JaBKqx57IIB/dLDTpWBu+Q==",
            "5IL4kCCyOerhaEHfdK1BbjYxO6HitYLRtJOxwD8MUZH5wCgc1edmf35rWiP9sRxEwnQDstxch8twKh08Usi1fQ==",
        ),
        "password",
    ),
    "keycloak-argon2": (KEYCLOAK_ARGON2, "password"),
}
"""Name → hash and password."""
