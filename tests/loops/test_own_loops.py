"""docs/loop_gan.md, docs/loop_pinn.md, docs/loop_closures.md: gradients of loops of one's own."""

import torch

from balancing import create_balancer
from tests.loops.pages import load


def combined(losses, parameters, weights):
    """``sum_k w_k g_k`` at the parameters, by plain autograd."""
    options = {"retain_graph": True, "materialize_grads": True}
    rows = [torch.autograd.grad(loss, parameters, **options) for loss in losses.values()]
    return [sum(w * g for w, g in zip(weights.tolist(), column, strict=True)) for column in zip(*rows, strict=True)]


def gradients(parameters):
    return [parameter.grad for parameter in parameters]


# ---- GAN -------------------------------------------------------------------------------------------------------------


def test_a_phase_of_the_gan_leaves_the_other_network_alone():
    loop = load("gan")
    points = loop.circle(32)
    for phase, other in (("generator", "discriminator"), ("discriminator", "generator")):
        for network in loop.networks.values():
            for parameter in network:
                parameter.grad = None
        torch.manual_seed(7)
        losses = loop.losses_of(phase, points)
        report = loop.balancers[phase].backward(losses, parameters=loop.networks[phase])
        torch.manual_seed(7)
        wanted = combined(loop.losses_of(phase, points), loop.networks[phase], report.weights)
        torch.testing.assert_close(gradients(loop.networks[phase]), wanted, rtol=1e-4, atol=1e-6)
        assert gradients(loop.networks[other]) == [None] * len(loop.networks[other])


# ---- PINN ------------------------------------------------------------------------------------------------------------


def test_collocation_points_are_not_measured():
    loop = load("pinn")
    reports = []
    for options in ({"parameters": loop.parameters}, {}):
        loop.network.zero_grad()
        torch.manual_seed(7)
        losses = loop.losses_of(16)
        reports.append(create_balancer("conflict_free", loop.balancer.objectives).backward(losses, **options))
        torch.manual_seed(7)
        wanted = combined(loop.losses_of(16), loop.parameters, reports[-1].weights)
        torch.testing.assert_close(gradients(loop.parameters), wanted, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(reports[0].gramian, reports[1].gramian)


def test_points_may_be_drawn_anew_for_methods_with_memory():
    loop = load("pinn")
    for method in ("moco", "db_mtl"):
        balancer = create_balancer(method, loop.balancer.objectives)
        for size in (16, 24, 16):
            balancer.backward(loop.losses_of(size))
        assert balancer.step == 3


# ---- L-BFGS and SAM --------------------------------------------------------------------------------------------------


def test_lbfgs_minimizes_the_weighted_sum_of_each_step():
    loop = load("closures")
    torch.manual_seed(3)
    model, plain = loop.TwoHeads(), loop.TwoHeads()
    plain.load_state_dict(model.state_dict())
    balancer = create_balancer("realtime", ("kind", "size"))
    loop.lbfgs(model, balancer, steps=2)
    assert balancer.step == 2

    optimizer = torch.optim.LBFGS(plain.parameters(), max_iter=10, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = (torch.stack([*plain.losses().values()]) / first).sum()
        loss.backward()
        return loss

    for _ in range(2):
        first = torch.stack([*plain.losses().values()]).detach()
        optimizer.step(closure)
    torch.testing.assert_close([*model.parameters()], [*plain.parameters()], rtol=1e-3, atol=1e-4)


def test_sam_is_one_step_of_the_balancer():
    loop = load("closures")
    torch.manual_seed(3)
    model, plain = loop.TwoHeads(), loop.TwoHeads()
    plain.load_state_dict(model.state_dict())
    balancer = create_balancer("dwa", ("kind", "size"), window=2)
    loop.sam(model, balancer, steps=3)
    assert balancer.step == 3
    assert balancer.filled.tolist() == [3, 3]  # losses in its memory: one per step

    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9)
    for _ in range(3):  # fewer than the window needs: all weights are 1
        parameters = [*plain.parameters()]
        rows = torch.autograd.grad(sum(plain.losses().values()), parameters)
        length = torch.cat([row.flatten() for row in rows]).norm()
        moved = {n: p + 0.05 / length * row for (n, p), row in zip(plain.named_parameters(), rows, strict=True)}
        features = torch.tanh(torch.nn.functional.linear(loop.x, moved["trunk.0.weight"], moved["trunk.0.bias"]))
        kind = torch.nn.functional.linear(features, moved["kind.weight"], moved["kind.bias"])
        size = torch.nn.functional.linear(features, moved["size.weight"], moved["size.bias"])
        loss = torch.nn.functional.cross_entropy(kind, loop.kind) + torch.nn.functional.mse_loss(size, loop.size)
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()
    torch.testing.assert_close([*model.parameters()], [*plain.parameters()], rtol=1e-4, atol=1e-5)
