"""The operator's store over the stand-in of ``stand_in``: what the watches would show, with a lag of its own per kind."""

from dpojob_operator import kube
from dpojob_operator.cache import Cache, WriteThrough
from dpojob_operator.observe import Observer
from dpojob_operator.store import WATCHED, Store
from dpojob_operator.views import View


class Watched:
    """A glance at the stand-in; like a new process, it begins with what there is."""

    def __init__(self, world, http):
        self.world = world
        self.store = Store()
        self.api = WriteThrough(world, self.store)
        cache = Cache(world, self.store)
        self.view = View(cache, Observer(cache, http), fresh=False)
        self.in_step = True
        self.silent = 0
        for resource in WATCHED:
            self.catch_up(resource)

    def has_made(self, job):
        return self.store.has_made(job)

    def is_current(self, namespace):
        return self.silent == 0

    def count(self):
        return self.store.count(kube.DPOJOBS)

    def show(self, lag):
        """Let the watches of some kinds show what there is."""
        self.silent += 1
        for resource in WATCHED:
            if lag.random() < 0.5:
                self.catch_up(resource)

    def catch_up(self, resource):
        if resource is kube.DPOJOBS:
            self.silent = 0
        found = {name: body for (kind, name), body in self.world.objects.items() if kind is resource}
        for body in found.values():
            body["metadata"].setdefault("namespace", "ns")
            self.store.put(resource, body)
        for key in self.store.keys(resource):
            if key[1] not in found:
                self.store.remove(resource, key, 0)
