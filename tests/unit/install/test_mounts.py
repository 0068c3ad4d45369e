"""What must be unmounted before a directory can go, and what is somebody's own."""

from dragonfly.install.mounts import mounts, to_unmount

TABLE = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 8:2 / /var/lib/rancher rw - ext4 /dev/sdb1 rw
31 22 8:1 /var/lib/kubelet /var/lib/kubelet rw shared:1 - ext4 /dev/sda1 rw
32 31 0:50 / /var/lib/kubelet/pods/1/volumes/a\040b rw - tmpfs tmpfs rw
33 31 0:51 / /var/lib/kubelet/pods/2 rw - tmpfs tmpfs rw
34 22 8:1 /var/lib/kubelet2 /var/lib/kubelet2 rw - ext4 /dev/sda1 rw
35 22 8:1 /@rancher /srv/rancher rw - btrfs /dev/sda1 rw
36 22 8:1 /var/lib/twice /var/lib/twice rw - ext4 /dev/sda1 rw
37 36 8:1 /var/lib/twice /var/lib/twice rw - ext4 /dev/sda1 rw
"""


def test_what_is_mounted_below_goes_first_then_the_directory_that_is_mounted_onto_itself() -> None:
    assert to_unmount(mounts(TABLE), "/var/lib/kubelet") == [
        "/var/lib/kubelet/pods/2",
        "/var/lib/kubelet/pods/1/volumes/a b",
        "/var/lib/kubelet",
    ]
    assert to_unmount(mounts(TABLE), "/var/lib/twice") == ["/var/lib/twice", "/var/lib/twice"]


def test_a_disk_or_a_subvolume_that_is_mounted_there_stays() -> None:
    assert to_unmount(mounts(TABLE), "/var/lib/rancher") == []
    assert to_unmount(mounts(TABLE), "/srv/rancher") == []


def test_others_stay() -> None:
    assert to_unmount(mounts(TABLE), "/run/k3s") == []
