"""Refuses weak RSA keys.

Owns the minimum size (RFC 7518 section 3.3), the range of the exponent (FIPS 186-5 section A.1.1)
and the test for ROCA (CVE-2017-15361).
"""

from typing import Any

__all__ = ["MIN_RSA_BITS", "check_rsa_key"]

MIN_RSA_BITS = 2048

_SMALLEST_EXPONENT = (1 << 16) + 1
_LARGEST_EXPONENT = (1 << 256) - 1


def check_rsa_key(public_key: Any) -> None:
    """Raise ValueError if an RSA public key of the `cryptography` package is too weak."""
    if public_key.key_size < MIN_RSA_BITS:
        raise ValueError(f"an RSA key must have {MIN_RSA_BITS} bits or more")
    numbers = public_key.public_numbers()
    if not _SMALLEST_EXPONENT <= numbers.e <= _LARGEST_EXPONENT or numbers.e % 2 == 0:
        raise ValueError("the exponent of an RSA key must be odd, and 65537 or more")
    if _is_roca(numbers.n):
        raise ValueError("the RSA key can be factored (ROCA, CVE-2017-15361); generate another")


def _is_roca(modulus: int) -> bool:
    """Tell whether the modulus is a power of 65537 modulo every small prime.

    The primes of the flawed generator are such powers, and so is the product of two of them. Fewer
    than one in a hundred million other moduli are.
    """
    return all(modulus % prime in powers for prime, powers in _POWERS.items())


def _powers(prime: int) -> frozenset[int]:
    powers, power = set(), 1
    while power not in powers:
        powers.add(power)
        power = power * 65537 % prime
    return frozenset(powers)


_PRIMES = [n for n in range(3, 168) if all(n % divisor for divisor in range(2, n))]
_POWERS = {prime: _powers(prime) for prime in _PRIMES}
