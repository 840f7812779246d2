"""One process of a two-process DistributedDataParallel run; started by test_model_integration.py, not collected.

Arguments: rank, a file to meet at, a file for the results.
"""

import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from segnet_ext import SegNetBasic
from segnet_ext.distributed import leave


def main(rank: int, meeting: str, results: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    torch.manual_seed(0)
    x = torch.randn(4, 3, 24, 32, dtype=torch.float64)
    torch.manual_seed(rank)  # DDP must start the second process from the first one's weights
    model = SegNetBasic(num_classes=3, width=8).double()
    parallel = DistributedDataParallel(model)
    initial = {name: value.clone() for name, value in model.state_dict().items()}

    model.eval()  # statistics that do not depend on how the batch is split
    parallel(x[2 * rank : 2 * rank + 2]).square().mean().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        parallel(x[2 * rank : 2 * rank + 2]).square().mean().backward()
        optimizer.step()
    trained = {name: parameter.detach() for name, parameter in model.named_parameters()}
    torch.save({"x": x, "initial": initial, "gradients": gradients, "trained": trained}, results)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
    leave(0)
