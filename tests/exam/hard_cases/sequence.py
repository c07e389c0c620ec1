"""Recurrence and attention: by torch's modules, cells and by hand."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from models.case import Case, hand, rows
from torch import nn


class HandWrittenLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.gates = nn.Linear(7, 16)
        self.out = nn.Linear(4, 1)

    def forward(self, x):
        h = c = x.new_zeros(4)
        for row in x:
            i, f, g, o = self.gates(torch.cat([row, h])).chunk(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.out(h)


def hand_written_lstm(m, x):
    h = c = x.new_zeros(4)
    for row in x:
        i, f, g, o = m.gates(torch.cat([row, h])).chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * hand(g)
        h = torch.sigmoid(o) * hand(c)
    return m.out(h)


class Cells(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNNCell(3, 3, nonlinearity="relu")
        self.gru = nn.GRUCell(3, 3)

    def forward(self, x):
        h = torch.zeros_like(x[:1])
        k = torch.zeros_like(x[:1])
        for row in x.split(1):
            h = self.rnn(row, h)
            k = self.gru(h, k)
        return k


def cells(m, x):
    h, k = torch.zeros_like(x[:1]), torch.zeros_like(x[:1])
    for row in x.split(1):
        h = hand(F.linear(row, m.rnn.weight_ih, m.rnn.bias_ih) + F.linear(h, m.rnn.weight_hh, m.rnn.bias_hh))
        r, z, n = F.linear(h, m.gru.weight_ih, m.gru.bias_ih).chunk(3, 1)
        hr, hz, hn = F.linear(k, m.gru.weight_hh, m.gru.bias_hh).chunk(3, 1)
        new = hand(n + torch.sigmoid(r + hr) * hn)
        update = torch.sigmoid(z + hz)
        k = (1 - update) * new + update * k
    return k


class TwoWays(nn.Module):
    """Both directions, two layers, tanh: torch's kernel, opened."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(3, 2, num_layers=2, bidirectional=True)

    def forward(self, x):
        out, last = self.rnn(x)
        return out, last


def two_ways(m, x):
    lasts = []
    for layer in range(2):
        outs = []
        for suffix, order in (("", 1), ("_reverse", -1)):
            w_ih, w_hh, b_ih, b_hh = (
                getattr(m.rnn, f"{name}_l{layer}{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            h, found = x.new_zeros(2), []
            for row in x if order == 1 else x.flip(0):
                h = hand(F.linear(row, w_ih, b_ih) + F.linear(h, w_hh, b_hh))
                found.append(h)
            outs.append(torch.stack(found[::order]))
            lasts.append(h)
        x = torch.cat(outs, 1)
    return x, torch.stack(lasts)


class Encoder(nn.Module):
    def __init__(self, activation, norm_first=False):
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            4, 2, 8, dropout=0.0, activation=activation, batch_first=True, norm_first=norm_first
        )
        self.embed = nn.Linear(3, 4)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        return self.encoder(self.embed(x)[None])


def encoder(m, x):
    h = m.embed(x)[None]
    for layer in m.encoder.layers:
        h = h + attention(layer.self_attn, h)
        h = h + layer.linear2(hand(layer.linear1(h)))
    return h


def attention(m, h):
    q, k, v = (
        part.unflatten(-1, (2, 2)).transpose(1, 2)
        for part in F.linear(h, m.in_proj_weight, m.in_proj_bias).chunk(3, -1)
    )
    weights = torch.softmax(q @ k.transpose(-1, -2) / 2**0.5, -1)
    return m.out_proj((weights @ v).transpose(1, 2).flatten(2))


class Decoder(nn.Module):
    """A whole nn.Transformer; only its activations are edited."""

    def __init__(self):
        super().__init__()
        self.net = nn.Transformer(4, 2, 1, 1, 8, dropout=0.0, activation=F.gelu, batch_first=True)
        self.embed = nn.Linear(3, 4)

    def forward(self, x):
        h = self.embed(x)[None]
        return self.net(h, h)


def decoder(m, x):
    net = copy.copy(m.net)
    for layer in (*m.net.encoder.layers, *m.net.decoder.layers):
        layer.activation = hand
        layer.activation_relu_or_gelu = 0
    h = m.embed(x)[None]
    try:
        return net(h, h)
    finally:
        for layer in (*m.net.encoder.layers, *m.net.decoder.layers):
            layer.activation = F.gelu


class OwnAttention(nn.Module):
    """Attention with an activation in place of the softmax, and a gated feed-forward."""

    def __init__(self):
        super().__init__()
        self.qkv, self.gate, self.up, self.down = nn.Linear(3, 9), nn.Linear(3, 6), nn.Linear(3, 6), nn.Linear(6, 3)
        self.act = {"gate": F.silu}

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + F.relu(q @ k.T / 3) @ v
        return x + self.down(self.act["gate"](self.gate(x)) * self.up(x))


def own_attention(m, x):
    q, k, v = m.qkv(x).chunk(3, -1)
    x = x + hand(q @ k.T / 3) @ v
    return x + m.down(hand(m.gate(x)) * m.up(x))


class LeakyScores(nn.Module):
    """Graph attention: leaky scores, softmax over them."""

    def __init__(self):
        super().__init__()
        self.w, self.att = nn.Linear(3, 4), nn.Linear(8, 1)

    def forward(self, x):
        h = self.w(x)
        pairs = torch.cat([h[:, None].expand(-1, len(h), -1), h[None].expand(len(h), -1, -1)], -1)
        scores = F.leaky_relu(self.att(pairs).squeeze(-1), 0.2)
        return F.elu(torch.softmax(scores, -1) @ h)


def leaky_scores(m, x):
    h = m.w(x)
    pairs = torch.cat([h[:, None].expand(-1, len(h), -1), h[None].expand(len(h), -1, -1)], -1)
    return hand(torch.softmax(hand(m.att(pairs).squeeze(-1)), -1) @ h)


ONLY_ACTIVATIONS = {"denorm": False}

CASES = {
    "LSTM by hand": Case(HandWrittenLSTM, hand_written_lstm, edits=2),
    "cells": Case(Cells, cells, edits=2),
    "RNN, two layers both ways": Case(TwoWays, two_ways),
    "encoder, relu": Case(lambda: Encoder("relu"), encoder, edits=6),
    "encoder, gelu, norm first": Case(lambda: Encoder(F.gelu, norm_first=True), encoder, edits=6),
    "encoder, module": Case(lambda: Encoder(nn.SiLU()), encoder, edits=6),
    "transformer": Case(Decoder, decoder, edits=2, options=ONLY_ACTIVATIONS),
    "attention of its own": Case(OwnAttention, own_attention, edits=2, inputs=(rows(),)),
    "leaky scores": Case(LeakyScores, leaky_scores, edits=2),
}
