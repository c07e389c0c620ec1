"use strict";
// Where boxes stand. Every open module is laid out by itself, when it is first shown; its size is then that of a box.
DCS.CHARACTER = 6.6;
DCS.PADDING = 12;
DCS.HANDLE = 22;

DCS.Layout = class {
  constructor(tree) {
    this.tree = tree;
  }

  size(node) {
    const tree = this.tree;
    const longest = Math.max(...[0, 1, 2].map((side) => String(tree.label(node, side) ?? "").length));
    const more = node.holds && !node.change ? 1 : 0;
    return { width: Math.max(40, (longest + 2) * DCS.CHARACTER + 16), height: more ? 38 : 24 };
  }

  // Return width, height, places of the children (left upper corners) and arrows, all relative to the module.
  of(node) {
    if (node.layout) return node.layout;
    const graph = new dagre.graphlib.Graph();
    graph.setGraph({ rankdir: "TB", nodesep: 14, ranksep: 26, marginx: DCS.PADDING, marginy: DCS.PADDING });
    graph.setDefaultEdgeLabel(() => ({}));
    const sizes = new Map();
    for (const child of node.children) {
      const inner = this.tree.isOpen(child) ? this.of(child) : this.size(child);
      sizes.set(child, inner);
      graph.setNode(String(child.index), { width: inner.width, height: inner.height });
    }
    for (const arrow of node.level.values()) graph.setEdge(String(arrow.from.index), String(arrow.to.index));
    dagre.layout(graph);
    const places = new Map();
    for (const child of node.children) {
      const { x, y } = graph.node(String(child.index));
      const { width, height } = sizes.get(child);
      places.set(child, { x: x - width / 2, y: y - height / 2 + DCS.HANDLE, width, height });
    }
    const arrows = [...node.level.values()].map((arrow) => {
      const { points } = graph.edge(String(arrow.from.index), String(arrow.to.index));
      return { ...arrow, points: points.map(({ x, y }) => ({ x, y: y + DCS.HANDLE })) };
    });
    const { width, height } = graph.graph();
    const own = this.size(node);
    node.layout = {
      width: Math.max(width, own.width + 20, 60),
      height: Math.max(height, 24) + DCS.HANDLE,
      places,
      arrows,
    };
    return node.layout;
  }
};
