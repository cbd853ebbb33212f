"""Two gloo processes against one that has the whole batch."""

import faulthandler
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from clst_runtime.errors import ConfigError, DataError
from clst_train.compute.distributed import (
    Ranks,
    averaged_over_ranks,
    is_split,
    mean_over,
    process_group,
    ranks,
    synchronise_norms,
    total,
    wait_for_all,
)

pytestmark = pytest.mark.slow  # trains in processes of its own


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1))


def batch():
    return torch.randn(4, 2, 5, 6, generator=torch.Generator().manual_seed(1)) + 3.0


def passed(net, images):
    """The loss is a sum of squares over what is above 0, divided by how many those are: a mean with a count."""
    out = net(images)
    above = out > 0
    return mean_over((out * above).pow(2).sum(), above.sum().float())


def part_of_two(here, rank, folder):
    assert is_split()
    net = network()
    synchronise_norms(net)
    whole = nn.parallel.DistributedDataParallel(net, broadcast_buffers=False)
    images = batch()[here.part(4, where="batch")]
    loss = passed(whole, images)
    loss.backward()
    counted = torch.tensor([1.0 + rank])
    told = averaged_over_ranks({"loss": loss.detach(), "rank": torch.tensor(float(rank))})
    wait_for_all()
    torch.save(
        {"state": net.state_dict(), "gradients": [p.grad for p in net.parameters()], "total": total(counted),
         "own": counted, "told": told},
        folder / f"{rank}.pt",
    )  # fmt: skip


def fail_as_two(rank):
    """The second rank leaves with an error while a thread of gloo still has a tensor of it, as on a busy machine."""
    whole = nn.parallel.DistributedDataParallel(network())
    if rank == 0:
        time.sleep(0.5)
    distributed.all_reduce(torch.zeros(1), async_op=rank == 1)
    raise DataError(f"a damaged image, and {type(whole).__name__} in the frames of this error")


def one_of_two(rank, folder, ports):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    os.environ["MASTER_PORT"] = ports[0]
    with process_group() as here:
        part_of_two(here, rank, folder)  # what holds the group is gone when it ends
    assert not distributed.is_initialized()
    os.environ["MASTER_PORT"] = ports[1]
    with pytest.raises(DataError), process_group():
        fail_as_two(rank)
    assert not distributed.is_initialized()
    (folder / f"{rank}.threads").write_text(" ".join(threads()))


def threads():
    return [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free, socket.socket() as another:
        for each in (free, another):
            each.bind(("127.0.0.1", 0))
        ports = [str(each.getsockname()[1]) for each in (free, another)]
    call = [sys.executable, __file__, str(folder), *ports]
    done = subprocess.run(call, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return [
        torch.load(folder / f"{rank}.pt") | {"threads": (folder / f"{rank}.threads").read_text()} for rank in range(2)
    ]


def test_gradients_and_statistics_are_those_of_the_whole_batch(found):
    alone = network()
    loss = passed(alone, batch())
    loss.backward()
    for each in found:
        for gradient, parameter in zip(each["gradients"], alone.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(each["state"][name], value, rtol=1e-5, atol=1e-6)
        assert each["told"]["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
        assert each["told"]["rank"].item() == 0.5


def test_a_total_is_the_sum_and_leaves_the_part_alone(found):
    assert [each["total"].item() for each in found] == [3.0, 3.0]
    assert [each["own"].item() for each in found] == [1.0, 2.0]


def test_a_rank_that_leaves_with_an_error_takes_the_threads_of_the_group_along(found):
    """When the wrapped network was the group's last owner, the two waited for each other and the rank never ended."""
    for each in found:
        assert "gloo" not in each["threads"], each["threads"]


def test_one_process_is_left_as_it_is(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert ranks() == Ranks(rank=0, count=1, local=0)
    with process_group() as here:
        assert here.first
        assert not is_split()
        assert here.part(3, where="batch") == slice(0, 3)
        assert mean_over(torch.tensor(6.0), torch.tensor(4.0)) == 1.5
        assert mean_over(torch.tensor(0.0), torch.tensor(0.0)) == 0.0
        values = {"loss": torch.tensor(1.0)}
        assert averaged_over_ranks(values) is values


def test_synchronised_norms_keep_names_values_and_the_running_statistics():
    plain, changed = network(), network()
    synchronise_norms(changed)
    assert type(changed[1]).__name__ == "SynchronisedNorm"
    assert plain.state_dict().keys() == changed.state_dict().keys()
    assert torch.equal(plain.eval()(batch()), changed.eval()(batch()))
    plain.train()(batch()), changed.train()(batch())
    assert torch.equal(plain[1].running_var, changed[1].running_var)


def test_a_norm_of_another_kind_keeps_its_kind_and_one_in_two_places_stays_one():
    norm, bare = nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False, track_running_stats=False)
    net = nn.Sequential(norm, nn.Sequential(norm), bare).train()
    names = set(net.state_dict())
    images = batch()[:, [0, 1, 1]]
    before = net(images)
    synchronise_norms(net)
    assert type(net[0]).__name__ == type(net[2]).__name__ == "SynchronisedNorm"
    assert net[0] is net[1][0]
    assert set(net.state_dict()) == names
    torch.testing.assert_close(net(images), before)


class NormAndRelu(nn.BatchNorm2d):
    def forward(self, images):
        return super().forward(images).relu()


def test_a_norm_with_a_forward_pass_of_its_own_is_refused():
    with pytest.raises(ConfigError, match="the network's NormAndRelu is a BatchNorm with a forward pass of its own"):
        synchronise_norms(nn.Sequential(nn.BatchNorm2d(2), NormAndRelu(2)))


def test_a_batch_that_cannot_be_split_is_refused():
    assert Ranks(rank=1, count=2).part(4, where="b") == slice(2, 4)
    with pytest.raises(ConfigError, match=r"adaptation.batch = 3 cannot be split over 2 processes"):
        Ranks(rank=0, count=2).part(3, where="adaptation.batch")


if __name__ == "__main__":
    second = os.fork()  # imports PyTorch once for both
    faulthandler.dump_traceback_later(60, exit=True)
    one_of_two(int(second == 0), Path(sys.argv[1]), sys.argv[2:4])
    if second:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(second, 0)[1]))
