"""The text tower: packed texts are exactly single texts, in one call, and too long ones are named."""

from __future__ import annotations

import pytest
import torch

LENGTHS = (60, 4, 33, 5, 2, 17, 5, 41)


@pytest.fixture
def texts(random_texts, ragged):
    return ragged(random_texts(LENGTHS))


def one_at_a_time(tower, texts):
    """Each text as the only row of a plain call of transformers' tower, without masks or positions of ours."""
    pieces = texts.tokens.split(texts.offsets.diff().tolist())
    return torch.cat(
        [tower.projection(tower.transformer(input_ids=piece[None]).last_hidden_state[0]) for piece in pieces]
    )


def test_packed_is_one_at_a_time(encoder, texts):
    with torch.no_grad():
        got, expected = encoder.text_tower(texts), one_at_a_time(encoder.text_tower, texts)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
        features = encoder.encode_text(texts)
        last = expected[texts.offsets[1:] - 1]
        torch.testing.assert_close(features.text, last / last.norm(dim=-1, keepdim=True), rtol=0, atol=1e-5)
        assert torch.equal(features.tokens, got)


def test_gradients_are_those_of_one_at_a_time(encoder, texts):
    tower = encoder.text_tower.double()
    weight = torch.randn(len(texts.tokens), encoder.config.embed_dim, dtype=torch.float64)
    gradients = []
    for encode in (tower, lambda texts: one_at_a_time(tower, texts)):
        tower.zero_grad()
        (encode(texts) * weight).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in tower.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=lambda m, name=name: f"{name}: {m}")


def test_empty_places_are_inert(encoder, random_texts, ragged):
    """Empty places hold token 0; what token 0 looks like changes nothing for texts without it."""
    texts = ragged(random_texts((30, 5, 4)))
    assert (texts.tokens != 0).all()
    with torch.no_grad():
        before = encoder.text_tower(texts)
        encoder.text_tower.transformer.embeddings.token_embedding.weight[0] = 1e4
        assert torch.equal(encoder.text_tower(texts), before)


def test_order_of_texts_does_not_matter(encoder, random_texts, ragged):
    sequences = random_texts(LENGTHS)
    with torch.no_grad():
        forward, backward = (encoder.encode_text(ragged(s)).text for s in (sequences, sequences[::-1]))
    torch.testing.assert_close(forward, backward.flip(0), rtol=0, atol=1e-6)


def test_the_tower_is_called_once(encoder, texts):
    calls = []
    encoder.text_tower.transformer.register_forward_hook(lambda *_: calls.append(1))
    encoder.encode_text(texts)
    assert len(calls) == 1


def test_too_long_or_empty_texts_are_named(encoder, random_texts, ragged):
    with pytest.raises(ValueError, match="at most context_length = 60 tokens, got 61"):
        encoder.encode_text(ragged(random_texts((5, 61))))
    empty = ragged(random_texts((5,)))
    with pytest.raises(ValueError, match="no empty one, got lengths \\[5, 0\\]"):
        encoder.encode_text(empty._replace(offsets=torch.tensor([0, 5, 5])))
    with pytest.raises(ValueError, match="at least one text"):
        encoder.encode_text(empty._replace(tokens=empty.tokens[:0], offsets=torch.tensor([0])))


def test_checkpointing_recomputes_and_changes_nothing(encoder, texts):
    tower = encoder.text_tower.double().train()
    layers = tower.transformer.encoder.layers
    results = []
    for _ in range(2):
        runs = []
        hooks = [layer.mlp.register_forward_pre_hook(lambda *_, runs=runs: runs.append(1)) for layer in layers]
        tower.zero_grad()
        tower(texts).square().sum().backward()
        results.append(({name: p.grad.clone() for name, p in tower.named_parameters()}, len(runs)))
        for hook in hooks:
            hook.remove()
        tower.set_grad_checkpointing()
    (plain, runs_plain), (saved, runs_saved) = results
    for name, gradient in plain.items():
        torch.testing.assert_close(saved[name], gradient)
    assert (runs_plain, runs_saved) == (len(layers), 2 * len(layers))
    tower.set_grad_checkpointing(False)
    assert not any(layer.gradient_checkpointing for layer in layers)
