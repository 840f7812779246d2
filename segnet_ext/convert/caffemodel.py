"""Reading Caffe's .caffemodel files: layers with their blobs, by a protobuf library and a schema of what is needed.

The file is read layer by layer, and a level of messages is parsed only when its size and count are known to be those of
a real network, so a file made to harm costs a bounded amount of memory. Field numbers are those of ``caffe.proto`` in
the authors' caffe-segnet; fields that are not needed are not declared.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from segnet_ext.errors import InputError, require

# SegNet has 92 layers, the largest of 9.4 MB, or four times that in float64 with gradients; 29 million values in all.
# Protobuf may take twenty times the bytes of a layer that is made of nothing but empty fields.
_MAX_FIELDS = 10_000
_MAX_LAYER_BYTES = 40 << 20
_MAX_BLOBS = 16
_MAX_VALUES = 1 << 26

# Of each message: the fields of bytes, each {name: number}, then the repeated ones of bytes, then the integers. What a
# field of bytes holds (text, numbers, a message) is decoded once its size is known.
_SCHEMA: dict[str, tuple[dict[str, int], dict[str, int], dict[str, int]]] = {
    "Layer": ({"name": 1, "type": 2, "bn_param": 45}, {"top": 4, "blobs": 7}, {}),
    "V1Layer": ({"name": 4}, {"top": 3, "blobs": 6}, {"type": 5}),
    "BNParameter": ({}, {}, {"bn_mode": 3}),
    # data: packed float32; double_data: packed float64
    "Blob": ({"shape": 7}, {"data": 5, "double_data": 8}, {"num": 1, "channels": 2, "height": 3, "width": 4}),
}
_LAYERS = {100: "Layer", 2: "V1Layer"}  # fields of the whole net
_DROPOUT = ("Dropout", 6)  # the type's name, and its number in V1


@dataclass(frozen=True)
class Blob:
    """``values`` float32, flat, and the shape that the file gives them."""

    values: NDArray[np.float32]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One layer. ``tops`` is the number of its outputs, ``inference`` whether its BN says that it is in that mode."""

    name: str
    blobs: tuple[Blob, ...]
    tops: int
    inference: bool
    dropout: bool


def read_caffemodel(path: Path) -> list[Layer]:
    """The layers of a file, in its order.

    Raises:
        InputError: the file cannot be read, is cut short, is no .caffemodel, or holds more than a network of SegNet's
            kind has; or the protobuf package is missing.
    """
    require(f"reading {path.name}", "google.protobuf", extra="convert")
    from google.protobuf.message import DecodeError

    layers: list[Layer] = []
    values = 0
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            for kind, content in _split(file, size):
                layer = _parse_layer(kind, content)
                values += sum(blob.values.size for blob in layer.blobs)
                if values > _MAX_VALUES:
                    raise ValueError(f"it holds more than {_MAX_VALUES:,} values")
                layers.append(layer)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except EOFError as error:
        raise InputError(f"{path} is cut short") from error
    except DecodeError as error:
        raise InputError(f"{path} is damaged or not a .caffemodel") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged or not a .caffemodel of SegNet: {error}") from error
    if not layers:
        raise InputError(f"{path} is not a .caffemodel: it has no layers")
    return layers


def _split(file: BinaryIO, size: int) -> Iterator[tuple[str, bytes]]:
    """The bytes of each layer, with the name of their message; other fields of the net are skipped unread."""
    for _ in range(_MAX_FIELDS):
        if file.tell() == size:
            return
        number, wire_type = divmod(_varint(file), 8)
        if wire_type == 0:
            _varint(file)
            continue
        if wire_type not in (1, 2, 5):
            raise ValueError(f"byte {file.tell():,} starts no field")
        length = _varint(file) if wire_type == 2 else {1: 8, 5: 4}[wire_type]
        if length > size - file.tell():
            raise EOFError
        if wire_type == 2 and number in _LAYERS:
            if length > _MAX_LAYER_BYTES:
                raise ValueError(f"a layer has {length:,} bytes, more than {_MAX_LAYER_BYTES:,}")
            yield _LAYERS[number], file.read(length)
        else:
            file.seek(length, 1)
    raise ValueError(f"it has more than {_MAX_FIELDS:,} fields")


def _varint(file: BinaryIO) -> int:
    """Protobuf's integers: seven bits a byte, lowest first, the eighth bit set on all but the last byte."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise EOFError
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError(f"byte {file.tell():,} ends no number")


def _parse_layer(kind: str, content: bytes) -> Layer:
    message = _messages()[kind].FromString(content)
    if len(message.blobs) > _MAX_BLOBS:
        raise ValueError(f"a layer has {len(message.blobs):,} blobs")
    mode = _messages()["BNParameter"].FromString(message.bn_param).bn_mode if kind == "Layer" else 0
    type_ = message.type.decode("utf-8", "replace") if kind == "Layer" else message.type
    return Layer(
        name=message.name[:200].decode("utf-8", "replace"),
        blobs=tuple(_parse_blob(blob) for blob in message.blobs),
        tops=len(message.top),
        inference=mode == 1,
        dropout=type_ in _DROPOUT,
    )


def _parse_blob(content: bytes) -> Blob:
    message = _messages()["Blob"].FromString(content)
    for chunks, dtype in ((message.data, "<f4"), (message.double_data, "<f8")):
        if len(chunks) > _MAX_BLOBS:
            raise ValueError(f"a blob has {len(chunks):,} pieces")
        data = b"".join(chunks)
        if data:
            if len(data) % int(dtype[2]):
                raise ValueError("a blob ends inside a number")
            values = np.frombuffer(data, dtype).astype(np.float32)
            break
    else:
        values = np.zeros(0, np.float32)
    shape = _parse_shape(message.shape) or (message.num, message.channels, message.height, message.width)
    return Blob(values, shape)


def _parse_shape(content: bytes) -> tuple[int, ...]:
    """The packed dimensions of a BlobShape; () for none."""
    if not content:
        return ()
    if len(content) > 128:
        raise ValueError("a blob has too many dimensions")
    return tuple(_messages()["Shape"].FromString(content).dim)


@functools.cache
def _messages() -> dict[str, Any]:
    """The classes of the schema's messages, and of Shape, whose packed integers ``dim`` are field 1.

    They have a pool of their own: another program's schema of Caffe, loaded beside this one, does no harm.
    """
    from google.protobuf import descriptor_pool, message_factory
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    package = "segnet_ext_caffe"
    file = FileDescriptorProto(name=f"{package}.proto", package=package)
    for name, groups in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for fields, type_, label in zip(
            groups,
            (Field.TYPE_BYTES, Field.TYPE_BYTES, Field.TYPE_INT32),
            (Field.LABEL_OPTIONAL, Field.LABEL_REPEATED, Field.LABEL_OPTIONAL),
            strict=True,
        ):
            for field, number in fields.items():
                message.field.add(name=field, number=number, type=type_, label=label)
    dim = file.message_type.add(name="Shape").field.add(
        name="dim", number=1, type=Field.TYPE_INT64, label=Field.LABEL_REPEATED
    )
    dim.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        message.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{message.name}"))
        for message in file.message_type
    }
