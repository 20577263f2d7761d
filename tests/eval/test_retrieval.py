"""Retrieval over batches: which text belongs to which image, shared texts, repeated samples."""

import pytest
import torch

from datamodules.batch import TextSlots
from eval import Retrieval, Ties, recall_at_k, slot_rows


def unit(rows):
    return torch.nn.functional.normalize(rows, dim=1)


def example(images=12, texts=30, width=6, seed=0):
    """Embeddings, the image of each text, and keys."""
    generator = torch.Generator().manual_seed(seed)
    owner = torch.cat([torch.arange(images), torch.randint(0, images, (texts - images,), generator=generator)])
    image_vectors = unit(torch.randn(images, width, generator=generator))
    captions = unit(image_vectors[owner] + torch.randn(texts, width, generator=generator))
    return image_vectors, captions, owner, [f"shard/{i:03d}" for i in range(images)]


def feed(benchmark, image_vectors, captions, owner, keys, batches, text_ids=None):
    """Update with the given batches, each a list of image rows."""
    for batch in batches:
        rows = torch.tensor(batch)
        texts_of_batch = [(t, row) for row, image in enumerate(batch) for t in range(len(owner)) if owner[t] == image]
        text = torch.tensor([t for t, _ in texts_of_batch], dtype=torch.long)
        benchmark.update(
            image_vectors[rows],
            captions[text],
            torch.tensor([row for _, row in texts_of_batch], dtype=torch.long),
            [keys[i] for i in batch],
            None if text_ids is None else text_ids[text],
        )


WHOLE = [list(range(12))]


@pytest.mark.parametrize("ties", list(Ties))
def test_numbers_are_recall_at_k_of_the_whole_matrix(ties):
    image_vectors, captions, owner, keys = example()
    benchmark = Retrieval("caption", ks=(1, 5), ties=ties)
    feed(benchmark, image_vectors, captions, owner, keys, [[0, 1, 2, 3, 4], [5, 6], [7, 8, 9, 10, 11]])
    numbers = benchmark.compute()
    similarity, positives = captions @ image_vectors.T, owner[:, None] == torch.arange(12)
    assert list(numbers) == [
        f"caption/{direction}/{measure}"
        for direction in ("text_to_image", "image_to_text")
        for measure in ("R@1", "R@5", "chance", "ties", "queries")
    ]
    for k in (1, 5):
        assert numbers[f"caption/text_to_image/R@{k}"] == recall_at_k(similarity, positives, k, ties)
        assert numbers[f"caption/image_to_text/R@{k}"] == recall_at_k(similarity.T, positives.T, k, ties)
    assert 0 < numbers["caption/text_to_image/R@1"] < 1
    assert numbers["caption/text_to_image/queries"] == 30
    assert numbers["caption/image_to_text/queries"] == 12
    assert numbers["caption/text_to_image/chance"] == pytest.approx(1 / 12)
    assert numbers["caption/image_to_text/chance"] == pytest.approx(1 / 12)
    assert all(type(number) is float for number in numbers.values())


def test_the_order_and_size_of_batches_change_nothing():
    image_vectors, captions, owner, keys = example()
    numbers = []
    for batches in (WHOLE, [[i] for i in reversed(range(12))], [[3, 1], [0, 11, 5, 2], [4, 6, 7, 8, 9, 10]]):
        benchmark = Retrieval("caption")
        feed(benchmark, image_vectors, captions, owner, keys, batches)
        numbers.append(benchmark.compute())
    assert numbers[0] == numbers[1] == numbers[2]


def test_repeated_samples_count_once():
    image_vectors, captions, owner, keys = example()
    once, padded = Retrieval("caption"), Retrieval("caption")
    feed(once, image_vectors, captions, owner, keys, WHOLE)
    feed(padded, image_vectors, captions, owner, keys, [[0, 1, 2, 3, 0, 0], [4, 5, 6, 7, 8, 9], [10, 11, 1, 2]])
    assert padded.compute() == once.compute()


def test_one_key_for_two_images_is_an_error():
    image_vectors, captions, owner, keys = example()
    benchmark = Retrieval("caption")
    feed(benchmark, image_vectors, captions, owner, [*keys[:11], keys[0]], WHOLE)
    with pytest.raises(ValueError, match="caption: keys must mean one item each, got 1 rows"):
        benchmark.compute()


def test_a_sentence_of_two_images_has_two_right_answers():
    image_vectors = torch.eye(3)
    sky = unit(torch.tensor([[0.3, 1.0, 0.2]]))  # closest to image 1, said of images 0 and 1
    captions = torch.cat([sky, sky, torch.eye(3)[2:]])
    owner, ids, keys = torch.tensor([0, 1, 2]), torch.tensor([77, 77, -5]), ["a", "b", "c"]
    shared, apart = Retrieval("sentence", ks=(1,)), Retrieval("sentence", ks=(1,))
    feed(shared, image_vectors, captions, owner, keys, [[0, 1, 2]], ids)
    feed(apart, image_vectors, captions, owner, keys, [[0, 1, 2]])
    numbers = shared.compute()
    assert numbers["sentence/text_to_image/R@1"] == 1.0
    assert numbers["sentence/text_to_image/queries"] == 2  # one text is one query
    assert numbers["sentence/image_to_text/R@1"] == 1.0
    assert numbers["sentence/image_to_text/ties"] == 0.0  # and one candidate
    assert numbers["sentence/text_to_image/chance"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    numbers = apart.compute()
    assert numbers["sentence/text_to_image/R@1"] == pytest.approx(2 / 3)  # said of image 0, it finds image 1
    assert numbers["sentence/text_to_image/queries"] == 3
    assert numbers["sentence/image_to_text/ties"] == pytest.approx(2 / 3)
    assert numbers["sentence/image_to_text/R@1"] == 1.0
    strict = Retrieval("sentence", ks=(1,), ties=Ties.PESSIMISTIC)
    feed(strict, image_vectors, captions, owner, keys, [[0, 1, 2]])
    assert strict.compute()["sentence/image_to_text/R@1"] == pytest.approx(1 / 3)


def test_shared_sentences_against_the_whole_matrix():
    image_vectors, captions, owner, keys = example(texts=60, seed=3)
    ids = torch.randint(0, 25, (60,), generator=torch.Generator().manual_seed(1)) * 10**15 - 7
    first = torch.stack([(ids == i).nonzero()[0, 0] for i in ids])
    benchmark = Retrieval("sentence")
    feed(benchmark, image_vectors, captions[first], owner, keys, [[5, 2, 0], [1, 3, 4, 6, 7], [8, 9, 10, 11]], ids)
    numbers = benchmark.compute()
    distinct = ids.unique()
    relation = torch.stack([torch.stack([((ids == d) & (owner == i)).any() for i in range(12)]) for d in distinct])
    texts = torch.stack([captions[first[(ids == d).nonzero()[0, 0]]] for d in distinct])
    assert relation.sum(1).max() > 1
    for k in (1, 5, 10):
        assert numbers[f"sentence/text_to_image/R@{k}"] == recall_at_k(texts @ image_vectors.T, relation, k)
        assert numbers[f"sentence/image_to_text/R@{k}"] == recall_at_k(image_vectors @ texts.T, relation.T, k)


def test_text_ids_that_mean_different_texts_are_an_error():
    image_vectors, captions, owner, keys = example()
    benchmark = Retrieval("sentence")
    feed(benchmark, image_vectors, captions, owner, keys, WHOLE, torch.arange(30) % 29)
    with pytest.raises(ValueError, match="sentence: text_ids must mean one item each, got 1 rows"):
        benchmark.compute()


def test_an_image_without_text_is_a_candidate_but_no_query():
    image_vectors, keys = torch.eye(3), ["a", "b", "c"]
    lost = unit(torch.tensor([[0.5, 0.0, 1.0]]))  # of image 0, nearer to image 2, which has no text
    benchmark = Retrieval("sentence", ks=(1,))
    benchmark.update(image_vectors, torch.cat([lost, torch.eye(3)[1:2]]), torch.tensor([0, 1]), keys)
    numbers = benchmark.compute()
    assert numbers["sentence/text_to_image/R@1"] == 0.5
    assert numbers["sentence/image_to_text/queries"] == 2
    assert numbers["sentence/image_to_text/R@1"] == 1.0


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_nothing_seen_gives_nothing_and_reset_forgets():
    benchmark = Retrieval("caption")
    assert benchmark.compute() == {}
    benchmark.update(torch.eye(2), torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), ["a", "b"])
    assert benchmark.compute() == {}
    feed(benchmark, *example(width=2), WHOLE)
    assert benchmark.compute()
    benchmark.reset()
    assert benchmark.compute() == {}


def test_integer_keys_and_low_precision_embeddings_are_taken():
    image_vectors, captions, owner, _ = example()
    benchmark = Retrieval("caption")
    benchmark.update(image_vectors.bfloat16(), captions.bfloat16(), owner, torch.arange(12))
    numbers = benchmark.compute()
    assert numbers["caption/text_to_image/queries"] == 30
    assert numbers["caption/text_to_image/ties"] == 0.0  # ranked in fp32


def test_wrong_input_is_named():
    image_vectors, captions, owner, keys = example()
    benchmark = Retrieval("caption")
    spoilt = image_vectors.clone()
    spoilt[4, 0] = torch.nan
    with pytest.raises(ValueError, match="caption: image_embeddings must be finite"):
        benchmark.update(spoilt, captions, owner, keys)
    with pytest.raises(ValueError, match="caption: text_embeddings must be unit vectors"):
        benchmark.update(image_vectors, captions * 10, owner, keys)
    with pytest.raises(ValueError, match=r"text_image must lie in \[0, 12\), got 0 to 12"):
        benchmark.update(image_vectors, captions, owner + (owner == 11), keys)
    with pytest.raises(ValueError, match="keys must be one an image, got 11 for 12"):
        benchmark.update(image_vectors, captions, owner, keys[:11])
    with pytest.raises(ValueError, match="ks must be numbers from 1 on, got \\(0, 1\\)"):
        Retrieval("caption", ks=(0, 1))
    assert benchmark.compute() == {}  # a refused batch leaves nothing behind


def test_slot_rows_lists_the_filled_slots():
    slots = TextSlots(
        torch.tensor([[4, 0], [0, 2], [0, 0]]), torch.tensor([[True, False], [True, True], [False, False]])
    )
    text, image = slot_rows(slots)
    assert (text.tolist(), image.tolist()) == ([4, 0, 2], [0, 1, 1])
