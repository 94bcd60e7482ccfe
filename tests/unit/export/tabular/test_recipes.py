"""Recipes, on small made-up files of the exact published formats."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recserve_export.catalogue.mapping import FieldMapping, validated
from recserve_export.cli import interactions
from recserve_export.cli.catalogue import commands as catalogue
from recserve_export.errors import MappingError
from recserve_export.interactions.mapping import InteractionMapping
from recserve_export.tabular.recipes import read_recipe, recipe_names
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.interactions.key_file import KEY_VARIABLE
from recserve_server_ext.interactions.store import InteractionStore
from support.events import KEY


def lines(*objects: object) -> str:
    return "".join(json.dumps(one) + "\n" for one in objects)


BOOK = {
    "isbn": "0312853122", "series": [], "is_ebook": "false", "average_rating": "4.00", "description": "Of a quiet man.",
    "authors": [{"author_id": "604031", "role": ""}], "publisher": "St. Martin's Press", "num_pages": "256",
    "publication_year": "", "book_id": "5333265", "ratings_count": "3", "title": "W.C. Fields", "format": "Paperback",
    "language_code": "",
}  # fmt: skip
READ = {"user_id": "8842", "book_id": "5333265", "is_read": True, "date_added": "Fri May 10 06:42:13 -0700 2013"}
SHOP = {
    "business_id": "tUFrWirKiKi_TAnsVWINQQ", "name": "Target", "city": "Tucson", "state": "AZ", "stars": 3.5,
    "review_count": 22, "is_open": 0, "latitude": 32.2, "longitude": -110.8,
    "categories": "Department Stores, Shopping",
}  # fmt: skip
#: Recipe, name of the catalogue's file with its text, name of the log's file with its text, types of interactions.
SETS = [
    ("movielens", "movies.csv",
     'movieId,title,genres\n1,"American President, The (1995)",Comedy|Drama\n2,X,(no genres listed)\n',
     "ratings.csv", "userId,movieId,rating,timestamp\n1,1,4.0,964982703\n1,2,0.5,964982704\n", {"rating": 2}),
    ("movielens-1m", "movies.dat", "1::Toy Story (1995)::Animation|Children's\n2::Amélie (2001)::Comedy\n",
     "ratings.dat", "1::1::5::978300760\n2::2::3::978302109\n", {"rating": 2}),
    ("movielens-100k", "u.item", "1|Toy Story (1995)|01-Jan-1995||http://x|" + "|".join("0" * 19) + "\n",
     "u.data", "196\t1\t3\t881250949\n186\t1\t3\t891717742\n", {"rating": 2}),
    ("book-crossing", "BX-Books.csv",
     '"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Publisher"\n'
     '"0195153448";"Rites of \\"Passage\\"; &c";"Judith Rae";"2001";"Heinle"\n',
     "BX-Book-Ratings.csv", '"User-ID";"ISBN";"Book-Rating"\n"2";"0195153448";"0"\n"8";"0195153448";"7"\n',
     {"rating": 1, "view": 1}),
    ("amazon-reviews", "meta.jsonl", lines({"parent_asin": "B1", "title": "Soap", "features": [], "price": None}),
     "r.jsonl", lines({"rating": 5.0, "user_id": "AE", "asin": "B0", "parent_asin": "B1", "timestamp": 1588615855070},
                      {"rating": 4.0, "user_id": "AE", "asin": "B0", "parent_asin": "B1", "timestamp": 1588615855071}),
     {"rating": 2}),
    ("amazon-reviews", "meta.json", lines({"asin": "B1", "title": "Soap", "feature": ["x"], "category": ["Beauty"]}),
     "r.json", lines({"overall": 5.0, "reviewerID": "A1", "asin": "B1", "unixReviewTime": 1514764800},
                     {"overall": 1.0, "reviewerID": "A2", "asin": "B1", "unixReviewTime": 1514764800}), {"rating": 2}),
    ("goodreads", "books.json", lines(BOOK, {**BOOK, "book_id": "2"}),
     "i.json", lines({**READ, "rating": 5}, {**READ, "user_id": "2", "rating": 0}), {"rating": 1, "view": 1}),
    ("goodreads", "books.json", lines(BOOK, {**BOOK, "book_id": "2"}),
     "i.csv", "user_id,book_id,is_read,rating,is_reviewed\n0,2,1,5,0\n0,5333265,1,0,0\n", {"rating": 1, "view": 1}),
    ("yelp", "business.json", lines(SHOP), "review.json",
     lines({"review_id": "r1", "user_id": "u", "business_id": SHOP["business_id"], "stars": 3.0,
            "date": "2018-07-07 22:09:11"}),
     {"rating": 1}),
    ("steam", "games.json", "{u'publisher': u'K', u'genres': [u'Action'], u'app_name': u'Lost', u'id': u'761140'}\n",
     "reviews.json", "{u'username': u'Chaos', u'hours': 0.1, u'product_id': u'761140', u'date': u'2017-12-17'}\n",
     {"purchase": 1}),
    ("recbole", "ml.item",
     "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n1\tToy Story\t1995\tComedy Drama\n",
     "ml.inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t1\t3\t881250949\n", {"rating": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("recipe", "items", "of_items", "log", "of_log", "types"), SETS)
@pytest.mark.parametrize("is_packed", [False, True])
def test_a_data_set_as_it_is_published(
    recipe: str,
    items: str,
    of_items: str,
    log: str,
    of_log: str,
    types: dict[str, int],
    is_packed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY.hex())
    home = tmp_path / "home"
    encoding = "latin-1" if recipe == "movielens-1m" else "utf-8"
    for app, name, text in ((catalogue.app, items, of_items), (interactions.app, log, of_log)):
        content = text.encode(encoding)
        path = tmp_path / (f"{name}.gz" if is_packed else name)
        path.write_bytes(gzip.compress(content) if is_packed else content)
        done = CliRunner().invoke(app, ["import", str(path), "--recipe", recipe, "--home", str(home)])
        assert done.exit_code == 0, done.output
        assert "refused 0" in done.output
    assert "100.0% of" in done.output
    with InteractionStore(Workspace(home).interactions) as store:
        assert store.stats().types == types
    with CatalogueStore(home / "catalogue.db") as opened:
        assert all(item.texts for item in opened.items())


def test_options_name_other_columns_than_the_recipe(tmp_path: Path) -> None:
    items, home = tmp_path / "ml.item", tmp_path / "home"
    items.write_text("item_id:token\tmovie_title:token_seq\trelease_year:token\tname:token_seq\n1\tA\t1990\tB\n")
    options = ["--recipe", "recbole", "--text", "movie_title", "--map", "movie_title=name", "--home", str(home)]
    done = CliRunner().invoke(catalogue.app, ["import", str(items), *options])
    assert done.exit_code == 0, done.output
    with CatalogueStore(home / "catalogue.db") as store:
        (item,) = store.items()
    assert item.texts == {"movie_title": "B"}


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_fit_their_schema(name: str) -> None:
    for mapping in read_recipe(name, "catalogue", FieldMapping):
        validated(mapping)
    if name != "films":
        assert read_recipe(name, "interactions", InteractionMapping)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(MappingError, match="did you mean 'movielens'"):
        read_recipe("movielense", "catalogue", FieldMapping)
