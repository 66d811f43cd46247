//! What nginx calls: the module's tables and the trampolines behind them. Each trampoline turns raw pointers into
//! views, catches panics, and maps the result to what nginx expects.

use core::ffi::{c_char, c_void};
use core::mem::offset_of;
use core::ptr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nginx_sys::{
    NGX_CONF_FLAG, NGX_CONF_TAKE1, NGX_CONF_TAKE12, NGX_DECLINED, NGX_ERROR, NGX_HTTP_LMT_CONF,
    NGX_HTTP_LOC_CONF, NGX_HTTP_MAIN_CONF, NGX_HTTP_MODULE, NGX_HTTP_SRV_CONF,
    NGX_HTTP_VAR_NOCACHEABLE, NGX_HTTP_VAR_PREFIX, NGX_OK, ngx_array_push, ngx_command_t,
    ngx_conf_t, ngx_cycle_t, ngx_http_add_variable, ngx_http_conf_ctx_t, ngx_http_core_loc_conf_t,
    ngx_http_core_module, ngx_http_handler_pt, ngx_http_module_t,
    ngx_http_phases_NGX_HTTP_ACCESS_PHASE, ngx_http_request_t, ngx_http_variable_t,
    ngx_http_variable_value_t, ngx_int_t, ngx_module_t, ngx_process, ngx_str_t, ngx_uint_t,
};
use ngx::core::Pool;
use ngx::http::{HttpModuleConfExt, HttpModuleMainConf, NgxHttpCoreModule};

use super::conf::{Conf, bytes};
use super::request::Request;
use super::zone::Zone;
use super::{shim, watch};
use crate::access::{self, Decision};
use crate::conf::{LocConf, MainConf};
use crate::directives::{self, Setter};
use crate::error::{ConfError, Refusal};
use crate::log::Level;
use crate::variables::{self, Variable};

/// The module's descriptor, under the name that `load_module` finds through `ngx_modules`.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, unreachable_pub)]
pub static mut ngx_http_jwt_module: ngx_module_t = ngx_module_t {
    ctx: (&raw const CONTEXT).cast_mut().cast(),
    commands: (&raw mut COMMANDS).cast(),
    type_: NGX_HTTP_MODULE as ngx_uint_t,
    init_module: Some(init_module),
    init_process: Some(init_process),
    ..ngx_module_t::default()
};
ngx::ngx_modules!(ngx_http_jwt_module);

static CONTEXT: ngx_http_module_t = ngx_http_module_t {
    preconfiguration: Some(preconfiguration),
    postconfiguration: Some(postconfiguration),
    create_main_conf: Some(create_main_conf),
    init_main_conf: None,
    create_srv_conf: None,
    merge_srv_conf: None,
    create_loc_conf: Some(create_loc_conf),
    merge_loc_conf: Some(merge_loc_conf),
};

/// http, server, location, limit_except.
const CONTEXTS: u32 =
    NGX_HTTP_MAIN_CONF | NGX_HTTP_SRV_CONF | NGX_HTTP_LOC_CONF | NGX_HTTP_LMT_CONF;

static mut COMMANDS: [ngx_command_t; 6] = [
    command(c"auth_jwt", NGX_CONF_TAKE12, set_auth_jwt),
    command(c"auth_jwt_key_file", NGX_CONF_TAKE12, set_auth_jwt_key_file),
    command(c"auth_jwt_key_refresh", NGX_CONF_TAKE1, set_auth_jwt_key_refresh),
    command(c"auth_jwt_leeway", NGX_CONF_TAKE1, set_auth_jwt_leeway),
    command(c"auth_jwt_require_exp", NGX_CONF_FLAG, set_auth_jwt_require_exp),
    ngx_command_t {
        name: ngx_str_t { len: 0, data: ptr::null_mut() },
        type_: 0,
        set: None,
        conf: 0,
        offset: 0,
        post: ptr::null_mut(),
    },
];

type RawSetter = unsafe extern "C" fn(
    cf: *mut ngx_conf_t,
    command: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char;

const fn command(name: &'static core::ffi::CStr, arguments: u32, set: RawSetter) -> ngx_command_t {
    ngx_command_t {
        name: ngx_str_t { len: name.count_bytes(), data: name.as_ptr().cast_mut().cast() },
        type_: (CONTEXTS | arguments) as ngx_uint_t,
        set: Some(set),
        // NGX_HTTP_LOC_CONF_OFFSET
        conf: offset_of!(ngx_http_conf_ctx_t, loc_conf),
        offset: 0,
        post: ptr::null_mut(),
    }
}

/// The place of this module in nginx's arrays of configurations and contexts.
pub(super) fn ctx_index() -> usize {
    // SAFETY: [I1] nginx sets it while it loads the module and never changes it.
    unsafe { ngx_http_jwt_module.ctx_index }
}

/// What tells this module's shared memory from another's.
pub(super) fn tag() -> *mut c_void {
    (&raw mut ngx_http_jwt_module).cast()
}

macro_rules! setters {
    ($($raw:ident => $setter:expr;)*) => {$(
        unsafe extern "C" fn $raw(
            cf: *mut ngx_conf_t,
            _: *mut ngx_command_t,
            conf: *mut c_void,
        ) -> *mut c_char {
            // SAFETY: [I2] nginx gives this callback the arguments of a directive's setter.
            unsafe { directive(cf, conf, $setter) }
        }
    )*};
}
setters! {
    set_auth_jwt => directives::auth_jwt;
    set_auth_jwt_key_file => directives::auth_jwt_key_file;
    set_auth_jwt_key_refresh => directives::auth_jwt_key_refresh;
    set_auth_jwt_leeway => directives::auth_jwt_leeway;
    set_auth_jwt_require_exp => directives::auth_jwt_require_exp;
}

/// # Safety
/// The arguments are those that nginx gives to the setter of a directive at NGX_HTTP_LOC_CONF_OFFSET.
unsafe fn directive(cf: *mut ngx_conf_t, conf: *mut c_void, setter: Setter) -> *mut c_char {
    // SAFETY: [I2]
    let Some(mut view) = (unsafe { Conf::from_raw(cf) }) else { return shim::conf_error() };
    let set = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: [I1] [I2] [I6] conf is the LocConf of the level that is being read; nobody else holds it.
        let loc = unsafe { conf.cast::<LocConf>().as_mut() };
        // SAFETY: [I6]
        let main = unsafe { main_conf(&*cf) };
        match (main, loc) {
            (Some(main), Some(loc)) => setter(&mut view, main, loc),
            _ => Err(ConfError::Nginx("auth_jwt")),
        }
    }));
    match set {
        Ok(Ok(())) => ptr::null_mut(),
        Ok(Err(error)) => {
            view.log(Level::Emerg, &error.to_string());
            shim::conf_error()
        }
        Err(_) => {
            view.log(Level::Emerg, "internal error of ngx_http_jwt_module");
            shim::conf_error()
        }
    }
}

/// # Safety
/// Fact I6 of the parent module holds for `o`.
unsafe fn main_conf<'m>(o: &impl HttpModuleConfExt) -> Option<&'m MainConf> {
    // SAFETY: the caller vouches for it; [I3]
    unsafe {
        let module = (&raw const ngx_http_jwt_module).as_ref()?;
        o.http_main_conf_unchecked::<MainConf>(module).map(|conf| conf.as_ref())
    }
}

unsafe extern "C" fn create_main_conf(cf: *mut ngx_conf_t) -> *mut c_void {
    // SAFETY: [I2]
    unsafe { Pool::from_ngx_pool((*cf).pool) }.allocate(MainConf::default()).cast()
}

unsafe extern "C" fn create_loc_conf(cf: *mut ngx_conf_t) -> *mut c_void {
    // SAFETY: [I2]
    unsafe { Pool::from_ngx_pool((*cf).pool) }.allocate(LocConf::default()).cast()
}

unsafe extern "C" fn merge_loc_conf(
    cf: *mut ngx_conf_t,
    parent: *mut c_void,
    child: *mut c_void,
) -> *mut c_char {
    let merged = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: [I1] [I2] [I6] two different levels, which nobody else holds.
        let (parent, child) =
            unsafe { (&*parent.cast::<LocConf>(), &mut *child.cast::<LocConf>()) };
        child.merge(parent);
        if child.is_enforced() && child.ring().is_none() {
            // SAFETY: [I2]
            unsafe { warn_no_keys(cf) };
        }
    }));
    if merged.is_ok() { ptr::null_mut() } else { shim::conf_error() }
}

/// A location that asks for tokens and has no keys refuses everything, which is seldom meant.
///
/// # Safety
/// `cf` is what nginx gave to a merge callback.
unsafe fn warn_no_keys(cf: *mut ngx_conf_t) {
    // SAFETY: [I2] while levels are merged, cf->ctx points to the configurations of the level.
    let core = unsafe {
        (&raw const ngx_http_core_module)
            .as_ref()
            .and_then(|core| (*cf).http_location_conf_unchecked::<ngx_http_core_loc_conf_t>(core))
    };
    let Some(core) = core else { return };
    // SAFETY: [I2] [I3]
    let (name, has_locations) =
        unsafe { (bytes(&core.as_ref().name), !core.as_ref().locations.is_null()) };
    // The server's own level counts only where no location takes its requests.
    if name.is_empty() && has_locations {
        return;
    }
    let text = format!(
        "\"auth_jwt\" is on in location \"{}\" without \"auth_jwt_key_file\": every request gets 401",
        String::from_utf8_lossy(name)
    );
    // SAFETY: [I2]
    unsafe { shim::conf_log(Level::Warn, cf, &text) };
}

unsafe extern "C" fn preconfiguration(cf: *mut ngx_conf_t) -> ngx_int_t {
    let prefix = NGX_HTTP_VAR_NOCACHEABLE | NGX_HTTP_VAR_PREFIX;
    // SAFETY: [I2]
    let added = unsafe {
        add_variable(cf, variables::CLAIM, prefix, claim_variable)
            && add_variable(cf, variables::HEADER, prefix, header_variable)
            && add_variable(cf, variables::CLAIMS, NGX_HTTP_VAR_NOCACHEABLE, claims_variable)
            && add_variable(cf, variables::PAYLOAD, NGX_HTTP_VAR_NOCACHEABLE, payload_variable)
    };
    if added { NGX_OK as ngx_int_t } else { NGX_ERROR as ngx_int_t }
}

type RawGetter = unsafe extern "C" fn(
    r: *mut ngx_http_request_t,
    v: *mut ngx_http_variable_value_t,
    data: usize,
) -> ngx_int_t;

/// # Safety
/// `cf` is what nginx gave to preconfiguration.
unsafe fn add_variable(
    cf: *mut ngx_conf_t,
    name: &'static str,
    flags: u32,
    getter: RawGetter,
) -> bool {
    let mut name = ngx_str_t { len: name.len(), data: name.as_ptr().cast_mut() };
    // SAFETY: the caller vouches for cf; nginx copies the name.
    let variable: *mut ngx_http_variable_t =
        unsafe { ngx_http_add_variable(cf, &raw mut name, flags as ngx_uint_t) };
    // SAFETY: null, or a variable in the cycle's pool.
    match unsafe { variable.as_mut() } {
        Some(variable) => {
            variable.get_handler = Some(getter);
            true
        }
        None => false,
    }
}

unsafe extern "C" fn postconfiguration(cf: *mut ngx_conf_t) -> ngx_int_t {
    // SAFETY: [I2]
    let Some(core) = NgxHttpCoreModule::main_conf_mut(unsafe { &*cf }) else {
        return NGX_ERROR as ngx_int_t;
    };
    let phase = &mut core.phases[ngx_http_phases_NGX_HTTP_ACCESS_PHASE as usize];
    // SAFETY: nginx has initialised the array; a new element is one handler.
    unsafe {
        let handler = ngx_array_push(&raw mut phase.handlers).cast::<ngx_http_handler_pt>();
        if handler.is_null() {
            return NGX_ERROR as ngx_int_t;
        }
        *handler = Some(access_handler);
    }
    // SAFETY: [I2] [I6]
    match unsafe { main_conf(&*cf) } {
        Some(main) if !main.files().is_empty() => {
            // SAFETY: [I2]
            match unsafe { Zone::add(cf) } {
                Some(zone) => main.set_zone(zone),
                None => return NGX_ERROR as ngx_int_t,
            }
        }
        _ => {}
    }
    NGX_OK as ngx_int_t
}

unsafe extern "C" fn init_process(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    // The cache manager and loader answer no requests.
    const NGX_PROCESS_HELPER: ngx_uint_t = 4;
    // SAFETY: [I7]
    if unsafe { ngx_process } == NGX_PROCESS_HELPER {
        return NGX_OK as ngx_int_t;
    }
    let started = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: [I2] [I6] without http {} there is no configuration. The event module's init_process has run
        // before, as modules are initialised in their order, so the event loop is set up.
        unsafe { main_conf(&*cycle).is_none_or(|main| watch::start(cycle, main)) }
    }));
    if matches!(started, Ok(true)) { NGX_OK as ngx_int_t } else { NGX_ERROR as ngx_int_t }
}

/// The zone is mapped now: what was read with the configuration becomes its last good state, for workers to come.
unsafe extern "C" fn init_module(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    let published = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: [I2] [I6]
        if let Some(main) = unsafe { main_conf(&*cycle) } {
            // SAFETY: [I2]
            main.publish_keys(|(level, line)| unsafe { shim::log(level, (*cycle).log, &line) });
        }
    }));
    if published.is_ok() { NGX_OK as ngx_int_t } else { NGX_ERROR as ngx_int_t }
}

unsafe extern "C" fn access_handler(r: *mut ngx_http_request_t) -> ngx_int_t {
    let internal = ngx_int_t::from(Refusal::Internal.status() as i16);
    // SAFETY: [I2]
    let Some(mut request) = (unsafe { Request::from_raw(r) }) else { return internal };
    match catch_unwind(AssertUnwindSafe(|| access::decide(&mut request))) {
        Ok(Decision::Off) => NGX_DECLINED as ngx_int_t,
        Ok(Decision::Allowed) => NGX_OK as ngx_int_t,
        Ok(Decision::Refused(status)) => ngx_int_t::from(status as i16),
        Err(_) => {
            request.log(Level::Error, &Refusal::Internal.line(None, ""));
            internal
        }
    }
}

unsafe extern "C" fn claims_variable(
    r: *mut ngx_http_request_t,
    v: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    // SAFETY: [I2]
    unsafe { get(r, v, Some(Variable::Claims)) }
}

unsafe extern "C" fn payload_variable(
    r: *mut ngx_http_request_t,
    v: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    // SAFETY: [I2]
    unsafe { get(r, v, Some(Variable::Payload)) }
}

unsafe extern "C" fn claim_variable(
    r: *mut ngx_http_request_t,
    v: *mut ngx_http_variable_value_t,
    data: usize,
) -> ngx_int_t {
    // SAFETY: [I2]
    unsafe { get(r, v, rest(data, variables::CLAIM).map(Variable::Claim)) }
}

unsafe extern "C" fn header_variable(
    r: *mut ngx_http_request_t,
    v: *mut ngx_http_variable_value_t,
    data: usize,
) -> ngx_int_t {
    // SAFETY: [I2]
    unsafe { get(r, v, rest(data, variables::HEADER).map(Variable::Header)) }
}

/// The part of a variable's name that follows its prefix.
///
/// # Safety
/// `data` is what nginx gives to the getter of a prefix variable: a pointer to the variable's name.
unsafe fn rest<'n>(data: usize, prefix: &str) -> Option<&'n str> {
    // SAFETY: the caller vouches for it; the name lives as long as the request's configuration.
    let name: &[u8] = unsafe { bytes((data as *const ngx_str_t).as_ref()?) };
    core::str::from_utf8(name).ok()?.strip_prefix(prefix)
}

/// # Safety
/// `r` and `v` are what nginx gave to a variable's getter.
unsafe fn get(
    r: *mut ngx_http_request_t,
    v: *mut ngx_http_variable_value_t,
    variable: Option<Variable<'_>>,
) -> ngx_int_t {
    // SAFETY: the caller vouches for both.
    let (request, value) = unsafe { (Request::from_raw(r), v.as_mut()) };
    let (Some(mut request), Some(value)) = (request, value) else { return NGX_ERROR as ngx_int_t };
    let text = catch_unwind(AssertUnwindSafe(|| {
        let text = variables::value(&mut request, variable?)?;
        request.copy(text.as_bytes())
    }));
    value.set_valid(0);
    value.set_no_cacheable(1);
    value.set_not_found(1);
    match text {
        Ok(Some(text)) => {
            // A claim is shorter than the longest token.
            value.set_len(u32::try_from(text.len).unwrap_or_default());
            value.data = text.data;
            value.set_valid(1);
            value.set_not_found(0);
            NGX_OK as ngx_int_t
        }
        Ok(None) => NGX_OK as ngx_int_t,
        Err(_) => {
            request.log(Level::Error, &Refusal::Internal.line(None, ""));
            NGX_ERROR as ngx_int_t
        }
    }
}
