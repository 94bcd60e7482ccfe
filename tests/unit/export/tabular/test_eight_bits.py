"""Encodings of 8 bits, told apart by what their text looks like."""

# ruff: noqa: RUF001

from __future__ import annotations

import io

import pytest

from recserve_export.tabular.encodings import guess_encoding

_TITLES = {
    "cp1252": [
        "It’s a dog’s life", "l’été – déjà vu", "Price: 5 € for “all”", "Œuvres complètes", "Rock ’n’ Roll", "Æon Flux",
        "…and Justice for All", "Žižek – Škoda", "Pokémon: L’ascension de Darkrai", "São Paulo", "25° C, ½ price",
    ],
    "mac_roman": [
        "Café crème", "It’s a dog’s life", "l’été – déjà vu", "naïve façade", "Größe XL", "Beyoncé", "Tür Öl",
        "El niño y la montaña", "São Paulo", "Œuvres complètes", "Amélie",
    ],
    "cp850": ["Müller Straße für Öl", "Café crème", "Größe XL", "El niño y la montaña", "Beyoncé", "Les Misérables"],
}  # fmt: skip
_LANGUAGES = {
    "cp1250": "Zażółć gęślą jaźń",
    "cp1251": "Новая книга",
    "cp1253": "Νέο βιβλίο για όλους",
    "cp1254": "Şişli İstanbul ığdır çağrı",
    "koi8-r": "Новая книга",
    "cp932": "日本語の商品名",
    "gb18030": "中文商品名称",
    "big5": "繁體中文商品名稱",
    "cp949": "한국어 상품 이름",
}


def decoded(text: str, encoding: str) -> str:
    content = text.encode(encoding)
    return content.decode(guess_encoding(io.BytesIO(content)).name)


@pytest.mark.parametrize("times", [1, 30])
@pytest.mark.parametrize(("encoding", "title"), [(name, title) for name in _TITLES for title in _TITLES[name]])
def test_windows_macintosh_and_dos(encoding: str, title: str, times: int) -> None:
    text = f"id;{title}\n" * times
    assert decoded(text, encoding) == text


@pytest.mark.parametrize("encoding", _LANGUAGES)
def test_other_languages(encoding: str) -> None:
    text = "".join(f"{number};{_LANGUAGES[encoding]} {number}\n" for number in range(30))
    assert decoded(text, encoding) == text
