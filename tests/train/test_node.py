"""Ranks that share a folder of a machine are those that see the same one there."""

from hpcdiff.train.node import Node
from hpcdiff.world import World


class Listening(World):
    """Keeps what its rank says of itself."""

    def allgather(self, value):
        self.said = value
        return [value]


class Others(World):
    """This is rank 1 of 4: rank 0 is a container with a folder of its own, rank 2 another machine, rank 3 a neighbour."""

    rank, size = 1, 4

    def __init__(self, container):
        super().__init__()
        self.container = container

    def allgather(self, value):
        return [self.container, value, ["other", value[1]], list(value)]


def test_containers_and_machines_are_told_apart(tmp_path):
    world = Listening()
    (tmp_path / "another").mkdir()
    Node(world, tmp_path / "another")
    node = Node(Others(world.said), tmp_path)
    assert node.ranks == [1, 3] and node.place == 0 and node.first


def test_one_process_is_alone(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        assert Node(World(), folder).ranks == [0]
