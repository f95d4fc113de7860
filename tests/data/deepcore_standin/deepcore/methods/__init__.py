"""A stand-in for DeepCore's methods: their signatures, and their ways with networks, data, generators and NumPy."""

import numpy as np
import torch

from .. import nets


class _Method:
    def __init__(self, dst_train, args, fraction=0.5, random_seed=None, epochs=200, specific_model=None, **kwargs):
        assert epochs == 0
        self.dst_train, self.args, self.seed = dst_train, args, random_seed
        self.n, self.budget, self.model_name = len(dst_train), round(len(dst_train) * fraction), specific_model
        self.options = kwargs

    def select(self):
        np.random.seed(self.seed)
        torch.manual_seed(self.seed)
        print("| Selecting")
        self.model = nets.__dict__[self.model_name](
            self.args.channel, len(self.dst_train.classes), pretrained=False, im_size=self.args.im_size
        ).to(self.args.device)
        self.model.eval()
        loader = torch.utils.data.DataLoader(self.dst_train, batch_size=self.args.selection_batch)
        embeddings, outputs = [], []
        self.model.no_grad = True
        with self.model.embedding_recorder:
            for inputs, _ in loader:
                outputs.append(self.model(inputs.to(self.args.device)).cpu())
                embeddings.append(self.model.embedding_recorder.embedding.cpu())
        self.model.no_grad = False
        assert self.model.get_last_layer().in_features == embeddings[0].shape[1]
        return self.finish(torch.cat(embeddings), torch.cat(outputs))


class kCenterGreedy(_Method):
    def finish(self, embedding, output):
        picked = [np.random.randint(self.n)]
        while len(picked) < self.budget:
            picked.append(int(torch.cdist(embedding, embedding[picked]).amin(1).argmax()))
        return {"indices": np.arange(self.n)[np.in1d(np.arange(self.n), picked)]}


class Uncertainty(_Method):
    def __init__(self, *args, selection_method="LeastConfidence", balance=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.selection_method, self.balance = selection_method, balance

    def finish(self, embedding, output):
        score = output.softmax(1)
        score = {"LeastConfidence": -score.amax(1), "Entropy": -(score * score.log()).sum(1)}[self.selection_method]
        if not self.balance:
            return {"indices": np.argsort(score.numpy())[::-1][: self.budget], "scores": score}
        groups = [np.arange(self.n)[self.dst_train.targets == c] for c in self.dst_train.classes]
        top = [g[np.argsort(-score.numpy()[g])[: round(self.budget * len(g) / self.n)]] for g in groups]
        return {"indices": np.concatenate(top), "scores": [score.numpy()[g] for g in groups]}


class Craig(_Method):
    def finish(self, embedding, output):
        return {"indices": np.arange(self.budget), "weights": np.arange(self.budget) + 1.0}
