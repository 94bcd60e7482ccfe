"""The bounded cache of text vectors, against a dictionary that never forgets."""

import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recserve_server_ext.encoder.text_cache import TextCache


def vectors_of(texts: list[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.array([[float(int(text)), -float(int(text))] for text in texts], np.float32).reshape(-1, 2)


@given(st.integers(1, 8), st.lists(st.lists(st.integers(0, 20), max_size=10), max_size=20))
def test_a_found_vector_is_the_last_one_put(places: int, rounds: list[list[int]]) -> None:
    cache = TextCache(places, 2)
    for numbers in rounds:
        texts = list(dict.fromkeys(map(str, numbers)))
        cache.put(texts, vectors_of(texts))
        assert len(cache) <= places
        found_vectors, found = cache.get(texts)
        assert found.tolist() == [place >= len(texts) - places for place in range(len(texts))]
        assert np.array_equal(found_vectors[found], vectors_of(texts)[found])


def test_least_recently_used_go_first() -> None:
    cache = TextCache(2, 2)
    cache.put(["1", "2"], vectors_of(["1", "2"]))
    cache.get(["1"])
    cache.put(["3"], vectors_of(["3"]))
    assert cache.get(["1", "2", "3"])[1].tolist() == [True, False, True]


def test_threads_never_see_another_texts_vector() -> None:
    cache = TextCache(16, 2)
    wrong: list[str] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(500):
            texts = list(dict.fromkeys(map(str, rng.integers(0, 40, 6).tolist())))
            vectors, found = cache.get(texts)
            if not np.array_equal(vectors[found], vectors_of(texts)[found]):
                wrong.extend(texts)
            cache.put(texts, vectors_of(texts))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
