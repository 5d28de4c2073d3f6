"""Train over several processes, then export: torchrun --nproc-per-node 2 train.py ddp|fsdp."""

import sys

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from exporter import MyLinear, export

dist.init_process_group()  # NCCL where there are GPUs, else gloo
make = lambda: torch.nn.Sequential(MyLinear(2, 16), torch.nn.Tanh(), MyLinear(16, 1))  # noqa: E731
torch.manual_seed(0)  # the same parameters in every process
if sys.argv[1] == "ddp":
    model = torch.nn.parallel.DistributedDataParallel(make())
else:  # each process holds a share of every parameter
    mesh = dist.init_device_mesh("cpu", (dist.get_world_size(),))
    model = dist.fsdp.fully_shard(make(), mesh=mesh)
optimizer = torch.optim.Adam(model.parameters(), 0.05)
x = torch.randn(512, 2, generator=torch.Generator().manual_seed(dist.get_rank()))  # rows of its own
for _ in range(200):
    loss = torch.nn.functional.mse_loss(model(x), x @ torch.tensor([[2.0], [3.0]]) + 4)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
state = get_model_state_dict(model, options=whole)  # complete in the first process, empty in the others
if dist.get_rank() == 0:
    trained = make()
    trained.load_state_dict(state)
    export(trained, torch.zeros(2, 2), "model.onnx")
    print(f"loss {loss.item():.6f}")
dist.destroy_process_group()
